"""What a run returns: status, statistics, networks along the way, and how it prints."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf

OBSERVE = {
    "loss": nf.measure.loss,
    "weights": lambda net, data: net.weights[0],
    "root": lambda net, data: jnp.sqrt(0.5 - nf.measure.loss(net, data)),  # not a number before the loss is small
    "few": lambda net, data: nf.measure.loss(net, data) < 0.5,
    "fit": nf.measure.fit_exponent,
}


@pytest.fixture(scope="module")
def run():
    data = nf.data.linear_teacher(30, 4, 2, key=jax.random.key(0))
    net = nf.nets.MLP([4, 5, 2], key=jax.random.key(1), init=nf.nets.Balanced(0.1))
    return nf.gradient_descent(
        net, data, optax.sgd(0.1), 20, observe=OBSERVE, save_at=[0, 5, 10, 20], save_nets=True, progress=False
    )


@pytest.fixture(scope="module")
def failed():
    data = nf.data.linear_teacher(30, 4, 2, key=jax.random.key(0))
    net = nf.nets.MLP([4, 5, 2], key=jax.random.key(1))
    return nf.gradient_descent(net, data, optax.sgd(1e3), 20, progress=False, throw=False)


def test_status_and_statistics_are_plain_words_and_numbers(run):
    assert run.status == "completed" and run.succeeded
    assert run.what_happened == "The run completed at t = 2."
    assert {**run.stats, "seconds": None} == {
        "steps": 20,
        "gradient_evaluations": 20,
        "seconds": None,
        "batch": "full",
    }
    assert all(type(value) in (int, float, str) for value in run.stats.values())


def test_a_failed_run_says_what_happened(failed):
    assert failed.status == "diverged" and not failed.succeeded
    assert "the parameters stopped being finite" in failed.what_happened
    assert failed.what_happened in repr(failed)
    assert str(nf.RunError(failed)).startswith(failed.what_happened)


def test_observables_that_are_nan_at_some_time_are_undefined(run):
    assert np.isnan(run.observed["root"][0]) and np.isfinite(run.observed["root"][-1])
    assert run.observable_status == {
        "loss": "defined",
        "weights": "defined",
        "root": "undefined",
        "few": "defined",
        "fit": "defined",
    }


def test_the_network_at_an_index_is_the_network_of_that_time(run):
    for i in range(len(run.times)):
        net = run.net_at(i)
        assert repr(net) == repr(run.net)
        np.testing.assert_array_equal(net.weights[0], run.observed["weights"][i])
    np.testing.assert_array_equal(run.net_at(-1).weights[1], run.net.weights[1])


def test_without_saved_networks_there_is_no_network_at_an_index(failed):
    with pytest.raises(ValueError, match="`net_at` needs a run with `save_nets=True`"):
        failed.net_at(0)


def test_repr_is_a_table_with_undefined_for_nan(run):
    lines = repr(run).splitlines()
    assert lines[0] == run.what_happened
    assert "steps: 20" in lines[1] and "batch: full" in lines[1]
    assert lines[2] == "net: MLP(4-5-2, identity, float64)"
    header = lines[3].split()
    # One column for each scalar observable, trees flattened.
    fit = ["fit.exponent", "fit.log_constant", "fit.residual", "fit.standard_error", "fit.spread", "fit.directions"]
    assert header[0] == "time" and set(header[1:]) == {"loss", "root", "few", *fit}
    rows = [dict(zip(header, line.split(), strict=True)) for line in lines[4:8]]
    assert [row["time"] for row in rows] == ["0", "0.5", "1", "2"]
    assert [float(row["loss"]) for row in rows] == pytest.approx(run.observed["loss"].tolist(), rel=1e-5)
    assert rows[0]["root"] == "undefined" and float(rows[-1]["root"]) > 0
    assert lines[8:] == ["and weights of shape (5, 4) at 4 times"]
    assert len({len(line) for line in lines[3:8]}) == 1


def test_long_tables_show_the_first_and_the_last_time(run):
    times = jnp.linspace(0.0, 2.0, 101)
    run = eqx.tree_at(lambda r: (r.times, r.observed), run, (times, {"loss": times}))
    rows = repr(run).splitlines()[4:]
    assert len(rows) == 8
    assert rows[0].split()[0] == "0" and rows[-1].split()[0] == "2"


def test_repr_of_a_run_without_scalars_and_of_specifications(run):
    assert "time" not in repr(eqx.tree_at(lambda r: r.observed, run, {}))
    shapes = eqx.filter_eval_shape(lambda run: run, run)
    assert repr(shapes).startswith("Trajectory(") and "ShapeDtypeStruct" in repr(shapes)
    assert repr(jax.tree.map(lambda leaf: 0, run)).startswith("Trajectory(")


def test_trajectories_pass_through_jax(run):
    doubled = eqx.filter_jit(lambda run: jax.tree.map(lambda a: 2 * a if eqx.is_inexact_array(a) else a, run))(run)
    np.testing.assert_array_equal(doubled.times, 2 * run.times)
    assert doubled.status == run.status and doubled.stats["batch"] == "full"


def test_labeled_dataset(run):
    dataset = run.to_xarray()
    assert dict(dataset.sizes) == {"time": 4, "weights[1]": 5, "weights[2]": 4}
    assert set(dataset.coords) == {"time", "step"}
    np.testing.assert_array_equal(dataset["time"], run.times)
    np.testing.assert_array_equal(dataset["step"], run.steps)
    assert dataset["step"].dims == ("time",)
    assert dataset["weights"].dims == ("time", "weights[1]", "weights[2]")
    np.testing.assert_array_equal(dataset["weights"].sel(time=0.5), run.observed["weights"][1])
    np.testing.assert_array_equal(dataset["fit.exponent"], run.observed["fit"].exponent)
    assert dataset["root"].attrs == {"status": "undefined"}
    assert dataset["loss"].attrs == {"status": "defined"}
    assert dataset.attrs == {"status": "completed", "end_time": 2.0, **run.stats}


def test_of_a_batch_a_lane_is_to_be_picked_first(run):
    batch = jax.tree.map(lambda a: jnp.stack([a, a]), run)
    uses = [
        lambda: batch.status,
        lambda: batch.observable_status,
        lambda: batch.reached(),
        lambda: batch.net_at(0),
        lambda: nf.plot.observable(batch, "loss"),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="` is of one run; pick a lane first: jax.tree.map"):
            use()
