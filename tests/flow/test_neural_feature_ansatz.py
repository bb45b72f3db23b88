"""Balanced deep linear networks satisfy NFM = AGOP^{1/L} along their whole gradient flow, with constant 1."""

import diffrax
import jax
import numpy as np
import pytest

import nfa_flow as nf

DATA = {
    "digits": nf.data.digits,
    "noisy teacher, c = 1": lambda: nf.data.linear_teacher(200, 20, 1, key=jax.random.key(1), noise=0.3),
    "noisy teacher, c = 3": lambda: nf.data.linear_teacher(200, 20, 3, key=jax.random.key(1), noise=0.3),
}
# Half of them hold the rank exactly or almost, the other half amply; odd on purpose.
WIDTHS = {2: [31], 3: [10, 31], 4: [31, 11, 31], 6: [31, 11, 13, 10, 31]}


def errors(data, depth, weight_decay, rtol, save_at=None):
    net = nf.nets.MLP(
        [data.inputs, *WIDTHS[depth], data.outputs], key=jax.random.key(2), init=nf.nets.Balanced(scale=0.3)
    )
    error = nf.measure.alignment(1 / depth, metric="fixed_scale_error")
    run = nf.gradient_flow(
        net,
        data,
        20.0,
        weight_decay=weight_decay,
        observe={"error": error},
        save_at=save_at,
        solver=diffrax.Dopri8(),
        rtol=rtol,
        atol=1e-3 * rtol,
        progress=False,
    )
    return np.asarray(run.observed["error"])


@pytest.mark.parametrize("depth", WIDTHS)
@pytest.mark.parametrize("name", DATA)
def test_nfm_is_agop_to_the_power_one_over_depth_at_every_saved_time(name, depth):
    data = DATA[name]()
    for weight_decay in (0.0, 0.05):
        all_along = errors(data, depth, weight_decay, rtol=1e-10)
        assert len(all_along) == 61
        assert all_along.max() < 1e-7


@pytest.mark.parametrize(("save_at", "least_slope"), [(None, 0.5), ([20.0], 0.75)])
@pytest.mark.parametrize("name", DATA)
def test_the_error_falls_with_the_tolerance(name, save_at, least_slope):
    """Error control per step promises rtol^{8/9} at the ends of steps for a method of order 8. Between them the
    interpolant is of lower order, and where stability limits the steps the error is smaller than asked for."""
    data, tolerances = DATA[name](), np.array([1e-5, 1e-6, 1e-7, 1e-8, 1e-9])
    worst = [errors(data, 3, 0.0, rtol, save_at).max() for rtol in tolerances]
    slope = np.polyfit(np.log(tolerances), np.log(worst), 1)[0]
    assert slope > least_slope


@pytest.mark.parametrize("depth", [2, 3])
def test_an_unbalanced_start_with_weight_decay_approaches_the_ansatz(depth):
    """The relative error falls like exp(−2λt) where AGOP does not vanish."""
    data = nf.data.linear_teacher(200, 3, 3, key=jax.random.key(1), whiten=True)
    net = nf.nets.MLP([3, *[5] * (depth - 1), 3], key=jax.random.key(0), init=nf.nets.Gaussian(1.5))
    decay = 0.1 if depth == 2 else 0.05
    error = nf.measure.alignment(1 / depth, metric="fixed_scale_error")
    times = [0.0, 40.0, 60.0, 80.0]
    run = nf.gradient_flow(
        net, data, 80.0, weight_decay=decay, observe={"error": error}, save_at=times, rtol=1e-9, progress=False
    )
    observed = np.asarray(run.observed["error"])
    assert observed[0] > 0.1
    np.testing.assert_allclose(np.log(observed[2:] / observed[1:-1]), -2 * decay * 20, rtol=0.05)


def test_a_collapsed_network_has_an_undefined_alignment():
    """Three layers under a weight decay that kills every mode: the ansatz is 0/0 in the end, and no number."""
    data = nf.data.linear_teacher(100, 4, 2, key=jax.random.key(1), whiten=True)
    net = nf.nets.MLP([4, 5, 5, 2], key=jax.random.key(0), init=nf.nets.Balanced(1e-3))
    run = nf.gradient_flow(
        net,
        data,
        100.0,
        weight_decay=0.5,
        observe={"loss": nf.measure.loss, "alignment": nf.measure.alignment(1 / 3)},
        progress=False,
    )
    assert run.status == "completed"
    assert run.observable_status == {"loss": "defined", "alignment": "undefined"}
    alignment = np.asarray(run.observed["alignment"])
    assert alignment[0] == pytest.approx(1)
    assert np.isnan(alignment[-1])
    assert "undefined" in repr(run)
