"""Gradients in chunks of samples: the same numbers, in the memory that is allowed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf
from nfa_flow.problem.memory import within_memory
from nfa_flow.problem.objective import make_objective
from nfa_flow.run.observation import make_observer

N = 50
RNG = np.random.default_rng(0)
X, LABELS, WEIGHT = RNG.normal(size=(N, 6)), RNG.integers(0, 4, N), RNG.uniform(0.1, 1, N)
DATA = nf.Dataset(X, LABELS, WEIGHT / WEIGHT.sum())
NET = nf.nets.MLP([6, 8, 4], key=jax.random.key(0), activation="tanh")


def distance(tree, other):
    one, two = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(each)]) for each in (tree, other))
    return np.linalg.norm(one - two) / np.linalg.norm(two)


@pytest.mark.parametrize(("dtype", "exact"), [(jnp.float64, 1e-12), (jnp.float32, 1e-6)])
@pytest.mark.parametrize("data", [DATA, nf.Dataset(X, LABELS)], ids=["weighted", "mean"])
def test_chunks_give_the_same_loss_gradient_and_hessian_products(data, dtype, exact):
    net = nf.nets.MLP([6, 8, 4], key=jax.random.key(0), activation="tanh", dtype=dtype)
    parameters, whole = make_objective(net, data, "cross_entropy", 0.01)
    direction = jax.tree.map(jnp.cos, parameters)
    for at_once in (25, 8, 1):  # 8 does not divide the number of samples
        parts = dataclasses.replace(whole, at_once=at_once)
        of = lambda objective: (
            objective.loss_and_gradient(parameters),
            objective.hessian_product(parameters, direction),
        )
        assert distance(of(parts), of(whole)) < exact


def test_the_memory_that_is_given_is_kept():
    data = nf.Dataset(jnp.ones((4000, 64)), jnp.ones((4000, 10)))
    net = nf.nets.MLP([64, 128, 128, 10], key=jax.random.key(0), activation="tanh")
    parameters, whole = make_objective(net, data, "mse", 0.0)
    parameter_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(parameters))

    def taken(objective):
        product = lambda objective, p, v: objective.hessian_product(p, v)
        compiled = jax.jit(product).lower(objective, parameters, parameters).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    memory = 2**22
    parts = within_memory(whole, parameters, memory)
    assert parts.at_once < 4000 and taken(parts) < memory + 6 * parameter_bytes < taken(whole) / 3
    assert within_memory(whole, parameters, None).at_once > 4000  # far less than the machine has


def test_runs_within_a_memory_are_the_same_runs():
    options = {"loss": "cross_entropy", "progress": False}
    flows = [nf.gradient_flow(NET, DATA, 1.0, memory=memory, **options) for memory in (None, 20_000)]
    assert distance(flows[1].net, flows[0].net) < 1e-9
    descents = [
        nf.gradient_descent(NET, DATA, optax.sgd(0.1), 5, batch_size=20, key=jax.random.key(0), memory=m, **options)
        for m in (None, 20_000)
    ]
    assert distance(descents[1].net, descents[0].net) < 1e-12


def test_what_a_run_observes_of_all_samples_is_within_its_memory():
    labels = nf.Dataset(jnp.ones((4000, 64)), jnp.arange(4000) % 10)
    observe = {"loss": nf.measure.loss, "accuracy": nf.measure.accuracy}

    def taken(net, data, memory):
        parameters, objective = make_objective(net, data, "mse" if net.is_linear else "cross_entropy", 0.0)
        observer = make_observer(observe, data, parameters, keep_parameters=False)
        compiled = (
            jax.jit(lambda *at: observer(*at)).lower(within_memory(objective, parameters, memory), parameters).compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    memory, one_layer = 2**21, 4000 * 512 * 8
    deep = nf.nets.MLP([64, 512, 512, 10], key=jax.random.key(0), activation="tanh")
    linear = nf.nets.MLP([64, 512, 10], key=jax.random.key(0), activation="identity")  # its gradient needs no samples
    for net, data in ((deep, labels), (linear, labels.one_hot())):
        assert taken(net, data, memory) < memory < one_layer < taken(net, data, None)


def test_loss_and_accuracy_of_some_samples_at_a_time_are_those_of_all():
    for measure in (functools.partial(nf.measure.loss, loss="cross_entropy"), nf.measure.accuracy):
        for data in (DATA, nf.Dataset(X, LABELS)):
            np.testing.assert_allclose(measure(NET, data, at_once=8), measure(NET, data), rtol=1e-14)
        with pytest.raises(ValueError, match="`at_once` must be a whole number of at least 1, but was 0"):
            measure(NET, DATA, at_once=0)


def test_a_memory_that_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match=r"`memory` must be at least \d+ bytes, which one sample takes, but was 10"):
        nf.gradient_flow(NET, DATA, 1.0, loss="cross_entropy", memory=10)
    with pytest.raises(ValueError, match="`memory` must be a positive number, but was -1"):
        nf.gradient_flow(NET, DATA, 1.0, loss="cross_entropy", memory=-1)
    total = nf.TotalLoss(lambda net, data: jnp.mean(jax.vmap(net)(data.x) ** 2))
    with pytest.raises(ValueError, match="`memory` must be left out for a `TotalLoss`, which is evaluated as a whole"):
        nf.gradient_flow(NET, DATA, 1.0, loss=total, memory=10**6)
