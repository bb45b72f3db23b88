"""A run in a sweep is the single call with the same arguments, in all that it returns.

Every number that JAX may trace is an axis. They advance together, so that few programs are compiled.
"""

import diffrax
import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import nfa_flow as nf

DATA = nf.data.multi_index(12, 3, 2, key=jax.random.key(5))
FRACTIONS = np.array([0.0, 0.1, 0.5, 1.0])
QUIET = {"progress": False, "throw": False}


def network(key, scale, activation="tanh"):
    return nf.nets.MLP([3, 4, 1], key=key, activation=activation, init=nf.nets.Gaussian(scale))


def flow(key, scale, weight_decay, first, second, rtol, atol, dt0, t0, t1, solver=None):
    options = {"mobility": (first, second), "rtol": rtol, "atol": atol, "dt0": dt0, "solver": solver} | QUIET
    times = t0 + (t1 - t0) * FRACTIONS
    return nf.gradient_flow(network(key, scale), DATA, t1, t0=t0, weight_decay=weight_decay, save_at=times, **options)


def explicit_flow(**settings):
    return flow(**settings, solver=diffrax.Tsit5())


def euler(key, dt0, t1):
    solver = diffrax.Euler()
    return nf.gradient_flow(network(key, 0.5), DATA, t1, dt0=dt0, solver=solver, save_at=t1 * FRACTIONS, **QUIET)


def flow_of_a_part(key, scale, weight_decay):
    options = {"trainable": lambda leaf: leaf.shape == (4, 3), "weight_decay": weight_decay} | QUIET
    return nf.gradient_flow(network(key, scale), DATA, 1.0, **options)


def flow_of_a_total_loss(key, scale, strength):
    def regularized(net, data, strength):
        return nf.measure.loss(net, data) + strength * jax.numpy.sum(nf.measure.nfm(net) ** 2)

    loss = nf.TotalLoss(eqx.Partial(regularized, strength=strength))
    return nf.gradient_flow(network(key, scale), DATA, 1.0, loss=loss, observe={"loss": nf.measure.loss}, **QUIET)


def kinked_flow(key, scale, weight_decay):
    return nf.gradient_flow(network(key, scale, "relu"), DATA, 1.0, weight_decay=weight_decay, **QUIET)


def stopped_flow(key, bound):
    # By constant steps, because adaptive ones follow the rounding of error estimates; and by an observable, because the
    # number of gradients in which a stop is located also follows rounding.
    options = {"stop": nf.StopWhen("loss", below=bound), "solver": diffrax.Euler(), "dt0": 0.05} | QUIET
    return nf.gradient_flow(network(key, 0.5), DATA, 5.0, **options)


def plain_descent(key, rate, scale, weight_decay):
    return nf.gradient_descent(network(key, scale), DATA, optax.sgd(rate), 12, weight_decay=weight_decay, **QUIET)


def momentum_descent(key, rate, momentum, time_per_step):
    optimizer = optax.sgd(rate, momentum=momentum)
    options = {"time_per_step": time_per_step, "batch_size": 5, "key": key, "save_at": [0, 5, 12]} | QUIET
    return nf.gradient_descent(network(key, 0.5), DATA, optimizer, 12, **options)


def adam_descent(key, rate, b1, decay):
    optimizer = optax.adamw(rate, b1=b1, weight_decay=decay)
    return nf.gradient_descent(network(key, 0.5), DATA, optimizer, 12, time_per_step=rate, save_at=[3, 12], **QUIET)


TOLERANCES = {
    "scale": [0.5, 0.8, 1.1],
    "weight_decay": [0.0, 0.1, 0.3],
    "first": [1.0, 1.5, 0.7],
    "second": [1.0, 0.6, 1.3],
    "rtol": [1e-6, 1e-5, 1e-4],
    "atol": [1e-9, 1e-8, 1e-7],
    "dt0": [0.01, 0.02, 0.05],
    "t0": [0.0, 0.5, -1.0],
    "t1": [1.0, 2.5, 1.3],
}
CASES = {
    "flow by the solver of choice": (flow, TOLERANCES),
    "flow by an explicit pair": (explicit_flow, TOLERANCES),
    "flow by constant steps, of which one diverges": (euler, {"dt0": [0.05, 0.1, 1e3], "t1": [1.0, 1.5, 1e6]}),
    "flow of a part": (flow_of_a_part, {"scale": [0.5, 0.8], "weight_decay": [0.0, 0.1]}),
    "flow of a total loss": (flow_of_a_total_loss, {"scale": [0.5, 0.8], "strength": [0.0, 0.1]}),
    "flow across kinks": (kinked_flow, {"scale": [0.5, 0.8], "weight_decay": [0.0, 0.1]}),
    "flow that stops": (stopped_flow, {"bound": [0.4, 0.2, 1e-9]}),
    "plain descent, of which one diverges": (
        plain_descent,
        {"rate": [0.05, 0.1, 1e9], "scale": [0.5, 0.8, 1e3], "weight_decay": [0.0, 0.1, 0.3]},
    ),
    "minibatches with momentum": (
        momentum_descent,
        {"rate": [0.05, 0.1], "momentum": [0.5, 0.9], "time_per_step": [0.1, 1.0]},
    ),
    "adamw": (adam_descent, {"rate": [0.01, 0.02], "b1": [0.8, 0.9], "decay": [0.1, 0.2]}),
}
# Of what a run costs to compile, lockstep adds as much again.
IN_LOCKSTEP = ["flow by an explicit pair", "plain descent, of which one diverges", "minibatches with momentum"]


@pytest.mark.parametrize(
    ("case", "batch"), [*((case, "sequential") for case in CASES), *((case, "vmap") for case in IN_LOCKSTEP)]
)
def test_a_run_in_a_sweep_is_the_single_call(case, batch):
    one_run, axes = CASES[case]
    seeds = [0, 3]
    dataset = nf.sweep(one_run, nf.Grid(nf.zipped(**axes), seed=seeds), batch=batch, progress=False)
    assert dataset.attrs["batching"] == batch
    first = next(iter(axes))
    for i in range(len(axes[first])):
        for seed in seeds:
            alone = one_run(key=jax.random.key(seed), **{name: values[i] for name, values in axes.items()})
            lane = dataset.isel({first: i}).sel(seed=seed)
            times = lane["times"] if "times" in lane else lane["time"]
            on_axis = np.isin(alone.times, times)  # all but the end of a run that ended early
            reached = np.count_nonzero(on_axis)
            assert reached >= len(alone.times) - (alone.status != "completed")
            np.testing.assert_array_equal(times[:reached], alone.times[on_axis])
            np.testing.assert_array_equal(lane["step"][:reached], alone.steps[on_axis])
            # Rounding differs between the programs, and adaptive steps follow it.
            np.testing.assert_allclose(lane["loss"][:reached], alone.observed["loss"][on_axis], rtol=1e-9)
            np.testing.assert_allclose(lane["loss_at_end"], alone.observed["loss"][-1], rtol=1e-9)
            np.testing.assert_allclose(lane["end_time"], alone.end_time, rtol=1e-9)
            assert np.isnan(lane["loss"][reached:]).all()
            assert (lane["status"], lane["reason"]) == (alone.status, alone.what_happened)
            stats = {"total_" + name if name == "steps" else name: value for name, value in alone.stats.items()}
            for name in stats.keys() - {"seconds"}:
                shown = {"reason": "solver_reason"}.get(name, name)
                stored = lane[shown].item() if shown in lane else lane.attrs[shown]
                assert stored == stats[name], name
