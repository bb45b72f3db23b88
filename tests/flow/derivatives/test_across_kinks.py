"""Derivatives of the exact flow across kinks, with a closed form.

A line x ↦ wx with the loss Σ_i α_i |wx_i − y_i| falls with constant speed from above, crosses the kink of the first
sample, and stops on that of the second one, on which it slides.
"""

import jax
import jax.numpy as jnp
import numpy as np

import nfa_flow as nf

START = {
    "w": 2.0,
    "x": jnp.array([1.0, 1.5]),
    "y": jnp.array([1.2, 0.6]),
    "weight": jnp.array([0.25, 0.75]),
    "times": jnp.array([0.3, 0.9, 2.0]),
}
NET = nf.nets.MLP([1, 1], key=jax.random.key(0))


def closed(at):
    """w before the crossing, after it, and on the slide."""
    pull, (first, second) = at["weight"] * at["x"], at["y"] / at["x"]
    fast, slow = pull[1] + pull[0], pull[1] - pull[0]
    crossing = (at["w"] - first) / fast
    t = at["times"]
    return jnp.stack([at["w"] - fast * t[0], first - slow * (t[1] - crossing), second + 0 * t[2]])


def position(at):
    run = nf.gradient_flow(
        NET.with_weights([jnp.reshape(at["w"], (1, 1))]),
        nf.Dataset(at["x"][:, None], at["y"][:, None], weight=at["weight"]),
        at["times"][-1],
        loss=lambda prediction, y: jnp.sum(jnp.abs(prediction - y)),
        save_at=at["times"],
        save_nets=True,
        progress=False,
    )
    return run.nets.weights[0].squeeze((-2, -1))


def test_backwards_with_respect_to_everything():
    """And of a start on a kink there is none: to either side of it the flow is another one."""

    @jax.jit
    def back(at, cotangent):
        value, pull = jax.vjp(position, at)
        return value, pull(cotangent)[0]

    exact, pull = jax.vjp(closed, START)
    for cotangent in jnp.eye(3):  # before the crossing, after it, and on the slide
        value, found = back(START, cotangent)
        np.testing.assert_allclose(value, exact, atol=1e-12)
        for name, slope in pull(cotangent)[0].items():
            np.testing.assert_allclose(found[name], slope, atol=1e-9, err_msg=name)
    on_the_kink = START | {"w": START["y"][0] / START["x"][0]}
    assert np.isnan(back(on_the_kink, cotangent)[1]["w"])


def test_forwards_with_respect_to_everything():
    tangent = {"w": 1.0, "x": jnp.array([0.2, 0.7]), "y": jnp.array([0.5, -0.3]), "weight": jnp.array([0.4, -0.1])}
    tangent["times"] = jnp.array([1.0, 2.0, 3.0])
    found = jax.jit(lambda at: jax.jvp(position, (at,), (tangent,))[1])(START)
    np.testing.assert_allclose(found, jax.jvp(closed, (START,), (tangent,))[1], atol=1e-9)
