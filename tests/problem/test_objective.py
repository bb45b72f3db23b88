"""The two forms of the objective are one function, and the one through moments keeps all digits at any size of data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import linear_net, relative, with_random_biases

import nfa_flow as nf
from nfa_flow.problem.objective import MomentObjective, SampleObjective, make_objective


def problem(samples, inputs, outputs, *, bias=False, weighted=False, rank=None):
    rng = np.random.default_rng(samples + 10 * inputs + 100 * outputs)
    x, y = rng.normal(size=(samples, inputs)), rng.normal(size=(samples, outputs))
    if rank is not None:
        x = x[:, :rank] @ rng.normal(size=(rank, inputs))
    weight = rng.uniform(size=samples) if weighted else None
    data = nf.Dataset(x, y, None if weight is None else weight / weight.sum())
    net = nf.nets.MLP([inputs, 4, 3, outputs], key=jax.random.key(0), bias=bias)
    return with_random_biases(net) if bias else net, data


def vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@eqx.filter_jit
def evaluate(objective, theta):
    return objective.loss_and_gradient(theta), objective.gradient(theta)


CASES = {
    "one output": dict(samples=20, inputs=5, outputs=1),
    "biases": dict(samples=20, inputs=5, outputs=3, bias=True),
    "weights": dict(samples=20, inputs=5, outputs=3, weighted=True),
    "biases and weights": dict(samples=20, inputs=5, outputs=3, bias=True, weighted=True),
    "fewer samples than inputs": dict(samples=4, inputs=7, outputs=3, bias=True),
    "one sample": dict(samples=1, inputs=5, outputs=3),
    "inputs of rank two": dict(samples=20, inputs=5, outputs=3, rank=2, bias=True, weighted=True),
}


@pytest.mark.parametrize("case", CASES)
def test_moments_and_samples_agree_in_loss_and_gradient(case):
    net, data = problem(**CASES[case])
    theta, moments = make_objective(net, data, "mse", 0.3)
    same_theta, samples = make_objective(net, data, "mse", 0.3, by_samples=True)
    assert isinstance(moments, MomentObjective) and isinstance(samples, SampleObjective)
    np.testing.assert_array_equal(vector(theta), vector(same_theta))
    (loss, gradient), gradient_alone = evaluate(moments, theta)
    (expected, expected_gradient), _ = evaluate(samples, theta)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    assert relative(vector(gradient) - vector(expected_gradient), vector(expected_gradient)) < 1e-12
    np.testing.assert_allclose(vector(gradient_alone), vector(gradient), rtol=1e-13, atol=1e-15)
    assert float(nf.measure.loss(net, data)) == pytest.approx(float(loss), rel=1e-12)


def test_the_objective_is_the_loss_plus_half_the_decay_times_the_squared_norm():
    net, data = problem(samples=20, inputs=5, outputs=3, bias=True)
    theta, objective = make_objective(net, data, "mse", 0.3)
    _, without = make_objective(net, data, "mse", 0.0)
    assert float(objective.loss(theta)) == float(without.loss(theta))
    difference = vector(objective.gradient(theta)) - vector(without.gradient(theta))
    np.testing.assert_allclose(difference, 0.3 * vector(theta), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("bias", [False, True])
def test_the_cost_of_a_gradient_does_not_depend_on_the_number_of_samples(bias):
    for samples in (50, 5000):
        net, data = problem(samples, inputs=5, outputs=3, bias=bias)
        _, objective = make_objective(net, data, "mse", 0.0)
        arrays = [leaf.shape for leaf in jax.tree.leaves(objective) if eqx.is_array(leaf)]
        assert arrays == [(), (8 + bias, 8 + bias)]


def test_the_loss_of_an_exact_fit_vanishes_to_the_square_of_rounding():
    """Rounding leaves residuals of order 1e-16, so a loss of 1e-32; S_yy − 2 A S_xy + A S_xx Aᵀ would stop at 1e-16."""
    rng = np.random.default_rng(0)
    A, x = rng.normal(size=(3, 5)), rng.normal(size=(1000, 5))
    data = nf.Dataset(x, x @ A.T)
    theta, objective = make_objective(linear_net([A]), data, "mse", 0.0)
    assert float(objective.loss(theta)) < 1e-28
    assert np.linalg.norm(vector(objective.gradient(theta))) < 1e-14
    off = A + 1e-9
    theta, objective = make_objective(linear_net([off]), data, "mse", 0.0)
    exact = 0.5 * np.mean(np.sum((x @ (off - A).T) ** 2, axis=1))
    # The residual of 1e-9 carries the rounding errors of numbers around 1: a relative 1e-7, twice that when squared.
    assert float(objective.loss(theta)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_minibatches_are_unbiased(weighted):
    """The mean over batches that part the samples is the whole objective, decay included."""
    net, data = problem(samples=12, inputs=5, outputs=2, weighted=weighted)
    theta, objective = make_objective(net, data, "mse", 0.3, by_samples=True)
    parts = np.random.default_rng(0).permutation(12).reshape(4, 3)
    batches = [evaluate(objective.on(jnp.asarray(part)), theta)[0] for part in parts]
    loss, gradient = evaluate(objective, theta)[0]
    np.testing.assert_allclose(np.mean([each for each, _ in batches]), loss, rtol=1e-13)
    mean = np.mean([vector(each) for _, each in batches], axis=0)
    np.testing.assert_allclose(mean, vector(gradient), rtol=1e-12, atol=1e-15)


def squared(prediction, target):
    return 0.5 * jnp.sum((prediction - target) ** 2)


class Doubled(eqx.Module):
    net: nf.nets.MLP

    def __call__(self, x):
        return 2 * self.net(x)


def test_moments_stand_in_only_for_linear_networks_under_the_squared_loss():
    net, data = problem(samples=20, inputs=5, outputs=3)
    kind = lambda net, loss: type(make_objective(net, data, loss, 0.0)[1])
    relu = nf.nets.MLP([5, 4, 3], key=jax.random.key(0), activation="relu")
    assert kind(net, "mse") is MomentObjective
    assert kind(net, squared) is SampleObjective
    assert kind(relu, "mse") is kind(Doubled(net), "mse") is SampleObjective
    theta, objective = make_objective(Doubled(net), data, squared, 0.0)
    doubled = float(nf.measure.loss(net.with_weights([*net.weights[:-1], 2 * net.weights[-1]]), data))
    assert float(objective.loss(theta)) == pytest.approx(doubled, rel=1e-14)


def test_everything_takes_the_dtype_of_the_network():
    _, data = problem(samples=20, inputs=5, outputs=3)
    for activation in ("identity", "tanh"):
        net = nf.nets.MLP([5, 4, 3], key=jax.random.key(0), activation=activation, dtype="float32")
        theta, objective = make_objective(net, data, "mse", 0.1)
        shapes = eqx.filter_eval_shape(evaluate, objective, theta)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}


def test_a_network_that_returns_no_vector_is_named():
    _, data = problem(samples=20, inputs=5, outputs=1)
    with pytest.raises(ValueError, match=r"`net` must be a map to 1 output, like the data, but was \(\)"):
        make_objective(eqx.nn.Linear(5, "scalar", key=jax.random.key(0)), data, "mse", 0.0)


class Skipping(nf.nets.MLP):
    """Another function of the same layers."""

    def __call__(self, x, *, key=None):
        return x + super().__call__(x)


def test_a_subclass_of_the_linear_network_is_taken_for_what_it_computes():
    net = Skipping([3, 2, 3], key=jax.random.key(0))
    data = nf.data.linear_teacher(12, 3, 3, key=jax.random.key(1))
    parameters, objective = make_objective(net, data, "mse", 0.0)
    assert type(objective).__name__ == "SampleObjective"
    np.testing.assert_allclose(objective.loss(parameters), nf.measure.loss(net, data), rtol=1e-14)
    J = np.eye(3) + net.affine()[0]
    np.testing.assert_allclose(nf.measure.agop(net, data), J.T @ J, rtol=1e-12)
    brute = jax.vmap(jax.jacrev(lambda weights, x: net.with_weights(weights)(x)), in_axes=(None, 0))(
        net.weights, data.x
    )
    J = np.concatenate([np.asarray(each).reshape(36, -1) for each in brute], axis=1)
    np.testing.assert_allclose(nf.measure.ntk(net, data), J @ J.T, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("cast", "message"),
    [
        (
            lambda W, i: W.astype("float32") if i else W,
            "of one floating-point dtype, real, but was of float32 and float64",
        ),
        (lambda W, i: W.astype("complex128"), "of one floating-point dtype, real, but was of complex128"),
    ],
)
def test_parameters_of_several_dtypes_or_complex_ones_are_refused(cast, message):
    data = nf.data.linear_teacher(12, 3, 3, key=jax.random.key(1))
    net = eqx.nn.MLP(3, 3, 4, 1, key=jax.random.key(0))
    arrays, rest = eqx.partition(net, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(arrays)
    net = eqx.combine(jax.tree.unflatten(structure, [cast(leaf, i) for i, leaf in enumerate(leaves)]), rest)
    with pytest.raises(ValueError, match=f"`net` must be {message}"):
        make_objective(net, data, "mse", 0.0)


def likelihood(prediction, target):
    """The negative logarithm of a normal density whose mean and log-variance are predicted."""
    mean, log_variance = prediction
    return 0.5 * ((mean - target[0]) ** 2 * jnp.exp(-log_variance) + log_variance)


def by_class_number(prediction, target):
    return optax.softmax_cross_entropy_with_integer_labels(prediction, target[0].astype(int))


def test_a_loss_may_have_targets_of_another_shape_than_predictions():
    net, data = problem(samples=20, inputs=5, outputs=3)
    y = np.asarray(data.y)[:, :1]
    two = nf.nets.MLP([5, 4, 2], key=jax.random.key(0), activation="tanh")
    theta, objective = make_objective(two, nf.Dataset(data.x, y), likelihood, 0.0)
    mean, log_variance = np.asarray(jax.vmap(two)(data.x)).T
    plain = np.mean(0.5 * ((mean - y[:, 0]) ** 2 / np.exp(log_variance) + log_variance))
    assert float(objective.loss(theta)) == pytest.approx(plain, rel=1e-13)
    labels = np.arange(20) % 3
    theta, objective = make_objective(net, nf.Dataset(data.x, labels.astype(float)), by_class_number, 0.0)
    _, one_hot = make_objective(net, nf.Dataset(data.x, np.eye(3)[labels]), "cross_entropy", 0.0)
    assert float(objective.loss(theta)) == pytest.approx(float(one_hot.loss(theta)), rel=1e-13)


def test_the_cross_entropy_of_labels_is_that_of_one_hot_targets():
    net, data = problem(samples=20, inputs=5, outputs=3)
    numbers = nf.Dataset(data.x, np.arange(20) % 3)
    theta, one_hot = make_objective(net, numbers.one_hot(), "cross_entropy", 0.0)
    for loss in ("cross_entropy", optax.softmax_cross_entropy_with_integer_labels):
        objective = make_objective(net, numbers, loss, 0.0)[1]
        pairs = zip(jax.tree.leaves(objective.gradient(theta)), jax.tree.leaves(one_hot.gradient(theta)), strict=True)
        assert all(np.allclose(one, other, rtol=1e-13, atol=1e-15) for one, other in pairs)
    with pytest.raises(ValueError, match=r"for the squared loss \(of classes: `data.one_hot\(\)`\), but was of class"):
        make_objective(net, numbers, "mse", 0.0)
    with pytest.raises(ValueError, match="`data` must be of labels below 3, like the 3 outputs .*, but was 3"):
        make_objective(net, nf.Dataset(data.x, np.arange(20) % 4), "cross_entropy", 0.0)
    column = nf.Dataset(data.x, np.arange(20.0) % 3)
    with pytest.raises(ValueError, match=r"`data` must be of class labels \(a vector of integers\) or one-hot targets"):
        make_objective(net, column, "cross_entropy", 0.0)
