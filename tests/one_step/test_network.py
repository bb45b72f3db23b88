import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.nets import MLP
from nfa_flow.one_step import Centered, SphereRows, sizes, two_layer_net
from nfa_flow.theory import hermite


def test_rows_are_on_the_sphere_and_the_readout_has_variance_one_over_the_width():
    W, a = two_layer_net(30, 4000, "relu", key=jax.random.key(0)).weights
    np.testing.assert_allclose(jnp.sum(W**2, axis=1), 1, rtol=1e-12)
    # Means of 4000 squares: a² has the standard deviation √2, (√d w_1)² less.
    assert abs(jnp.sum(a**2) - 1) < 4 * (2 / 4000) ** 0.5
    np.testing.assert_allclose(jnp.sum(W**2, axis=0) * 30 / 4000, 1, atol=4 * (2 / 4000) ** 0.5)
    assert a.shape == (1, 4000)


@pytest.mark.parametrize("name", ["relu", "softplus"])
def test_the_activation_has_mean_zero(name):
    (activation,) = two_layer_net(3, 4, name, key=jax.random.key(0)).activations
    assert abs(hermite(activation).coefficients[0]) < 1e-14
    np.testing.assert_allclose(hermite(activation).coefficients[1:], hermite(name).coefficients[1:], atol=1e-13)


def test_networks_of_one_activation_share_their_programs(compilations):
    applied = jax.jit(lambda net, x: net(x))
    nets = [two_layer_net(3, 4, "relu", key=jax.random.key(seed)) for seed in range(2)]
    assert jax.tree.structure(nets[0]) == jax.tree.structure(nets[1])
    x = jnp.ones(3)
    applied(nets[0], x)
    compilations()
    applied(nets[1], x)
    assert compilations() == 0


def test_several_outputs_and_a_dtype():
    net = two_layer_net(3, 4, "tanh", key=jax.random.key(0), outputs=2, dtype=jnp.float32)
    assert net.widths == (3, 4, 2) and net.weights[0].dtype == jnp.float32


def test_a_centered_relu_knows_of_its_kink():
    assert Centered(jax.nn.relu, 0.4).has_kinks and not Centered(jnp.tanh, 0.0).has_kinks


@pytest.mark.parametrize(
    "samples, phi, psi, expected", [(1500, 0.3, 0.6, (1500, 450, 750)), (40, 1.5, 0.5, (40, 60, 120))]
)
def test_sizes_have_the_ratios(samples, phi, psi, expected):
    assert sizes(samples, phi, psi) == expected


@pytest.mark.parametrize("samples", [1, 5, 17])
def test_too_few_samples_for_the_ratios_are_refused(samples):
    with pytest.raises(
        ValueError, match=r"`samples` must be large enough for d/n = 0.3 and d/N = 0.7 with whole d and N"
    ):
        sizes(samples, 0.3, 0.7)


def test_bad_arguments_are_refused():
    for bad in ({"samples": 0}, {"phi": 0.0}, {"psi": -1.0}):
        with pytest.raises(ValueError, match=f"`{next(iter(bad))}` must be"):
            sizes(**({"samples": 10, "phi": 1.0, "psi": 1.0} | bad))
    with pytest.raises(ValueError, match="`widths` must be"):
        MLP([2, 3, 3, 1], key=jax.random.key(0), init=SphereRows())
    with pytest.raises(ValueError, match="of finite E"):
        two_layer_net(3, 4, lambda z: jnp.exp(z**2), key=jax.random.key(0))
