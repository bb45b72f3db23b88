"""The flow of a network with rounded kinks tends to the flow across them, also where that one slides."""

import equinox as eqx
import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import relative

import nfa_flow as nf


def test_the_distance_from_the_flow_across_kinks_falls_as_one_over_beta():
    rng = np.random.default_rng(2)
    data = nf.Dataset(rng.normal(size=(12, 3)), rng.normal(size=(12, 1)))
    net = nf.nets.MLP([3, 4, 1], key=jax.random.key(2), activation="relu")

    def run(solver):
        return nf.gradient_flow(net, data, 4.0, solver=solver, rtol=1e-8, progress=False)

    theta = lambda run: np.asarray(ravel_pytree(eqx.filter(run.net, eqx.is_inexact_array))[0])
    exact = run(nf.flow.Piecewise())
    assert exact.stats["slides"] >= 1 and exact.stats["crossings"] >= 2
    errors = [relative(theta(run(nf.flow.Smoothed(beta=beta))) - theta(exact), theta(exact)) for beta in (1e3, 1e5)]
    assert errors[1] < 1e-4 and 30 < errors[0] / errors[1] < 300


def test_a_smooth_network_has_nothing_to_round():
    data = nf.data.linear_teacher(10, 3, 1, key=jax.random.key(0))
    net = nf.nets.MLP([3, 4, 1], key=jax.random.key(1), activation="tanh")
    with pytest.raises(ValueError, match="`solver` must be .* without kinks, but was Smoothed"):
        nf.gradient_flow(net, data, 1.0, solver=nf.flow.Smoothed(), progress=False)
    with pytest.raises(ValueError, match="`beta` must be"):
        nf.flow.Smoothed(beta=0.0)
