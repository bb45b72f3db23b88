"""Derivatives of a flow with a closed form, with respect to everything that it depends on.

A network x ↦ w₂w₁x with w₁ = w₂ = σ at the start has s = w₂w₁ with ds/dt = 2ms(a − bs), where a = Σwxy − λ and b =
Σwx²: a logistic curve.
"""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf

X = jnp.array([1.0, -1.5, 0.5])
START = {
    "sigma": 0.3,
    "decay": 0.1,
    "mobility": 1.3,
    "t0": 0.2,
    "t1": 2.2,
    "between": 1.1,
    "x": X,
    "y": 0.8 * X + jnp.array([0.0, 0.1, 0.2]),
    "weight": jnp.array([0.5, 0.2, 0.3]),
}
NET = nf.nets.MLP([1, 1, 1], key=jax.random.key(0))


def closed(at):
    """The weights and the losses at `between` and `t1`."""
    w, x, y = at["weight"], at["x"], at["y"]
    a, b = jnp.sum(w * x * y) - at["decay"], jnp.sum(w * x**2)
    elapsed = jnp.stack([at["between"], at["t1"]]) - at["t0"]
    s = a / (b + (a / at["sigma"] ** 2 - b) * jnp.exp(-2 * a * at["mobility"] * elapsed))
    loss = jnp.sum(w * (s[:, None] * x - y) ** 2, axis=1) / 2
    return {"weights": jnp.sqrt(s), "loss": loss, "end": jnp.sqrt(s[-1]), "end_time": at["t1"]}


def given(at):
    return {
        "net": NET.with_weights([at["sigma"] * jnp.ones((1, 1))] * 2),
        "data": nf.Dataset(at["x"][:, None], at["y"][:, None], weight=at["weight"]),
        "t1": at["t1"],
        "t0": at["t0"],
        "weight_decay": at["decay"],
        "mobility": (at["mobility"], at["mobility"]),
        "progress": False,
    }


def flow(at, solver, loss, rtol):
    run = nf.gradient_flow(
        **given(at),
        save_at=jnp.stack([at["between"], at["t1"]]),
        save_nets=True,
        solver=solver,
        loss=loss,
        rtol=rtol,
    )
    first = lambda net: net.weights[0].squeeze((-2, -1))
    return {"weights": first(run.nets), "loss": run.observed["loss"], "end": first(run.net), "end_time": run.end_time}


def squared(prediction, target):
    return jnp.sum((prediction - target) ** 2) / 2


def in_random_direction(tree, key):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure, [jax.random.normal(k, jnp.shape(v)) for k, v in zip(keys, leaves, strict=True)]
    )


@pytest.mark.parametrize(
    ("solver", "loss"),
    [(nf.flow.NDF(), squared), (diffrax.Tsit5(), squared), (nf.flow.TSRKC3(), "mse")],
    ids=["NDF", "Tsit5", "TSRKC3, moments"],
)
def test_backwards_with_respect_to_everything(solver, loss):
    """For each output by itself: what reaches every argument."""
    rtol = 1e-9
    run = partial(flow, solver=solver, loss=loss, rtol=rtol)
    back = jax.jit(lambda at, cotangent: jax.vjp(run, at)[1](cotangent)[0])
    values, exact = jax.vjp(closed, START)
    for name in values:
        cotangent = jax.tree.map(jnp.zeros_like, values)
        cotangent[name] = in_random_direction(values[name], jax.random.key(1))
        expected, found = exact(cotangent)[0], back(START, cotangent)
        size = max(float(jnp.max(jnp.abs(each))) for each in expected.values())
        for argument, slope in expected.items():
            np.testing.assert_allclose(
                found[argument], slope, rtol=0, atol=10 * rtol * size, err_msg=f"{name}/{argument}"
            )


def test_forwards_with_respect_to_everything():
    rtol = 1e-9
    run = partial(flow, solver=nf.flow.NDF(), loss="mse", rtol=rtol)
    forth = jax.jit(lambda at, tangent: jax.jvp(run, (at,), (tangent,))[1])
    for seed in range(3):
        tangent = in_random_direction(START, jax.random.key(seed))
        expected, found = jax.jvp(closed, (START,), (tangent,))[1], forth(START, tangent)
        size = max(float(jnp.max(jnp.abs(each))) for each in expected.values())
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=10 * rtol * size), found, expected)


def test_a_located_stop_moves_with_everything():
    """s = S at t = t0 + log((a/σ² − b)/(a/S − b))/(2am)."""
    bound, rtol = 0.5, 1e-9

    def time(at):
        w, x, y = at["weight"], at["x"], at["y"]
        a, b = jnp.sum(w * x * y) - at["decay"], jnp.sum(w * x**2)
        elapsed = jnp.log((a / at["sigma"] ** 2 - b) / (a / at["bound"] - b)) / (2 * a * at["mobility"])
        return at["t0"] + elapsed, jnp.sqrt(at["bound"])

    def stopped(at):
        run = nf.gradient_flow(
            **given(at),
            observe={"s": product},
            save_at=at["t1"][None],
            stop=nf.StopWhen("s", above=at["bound"]),
            rtol=rtol,
        )
        return run.end_time, run.net.weights[0].squeeze()

    at = START | {"bound": bound, "t1": jnp.array(9.0)}
    expected, found = jax.jacrev(time)(at), jax.jit(jax.jacrev(stopped))(at)
    for slopes, exact in zip(found, expected, strict=True):
        size = max(float(jnp.max(jnp.abs(each))) for each in exact.values())
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=10 * rtol * size), slopes, exact)


def product(net, data):
    return (net.weights[1] @ net.weights[0]).squeeze()
