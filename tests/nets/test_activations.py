import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from nfa_flow.nets import ACTIVATIONS
from nfa_flow.nets.activations import PIECEWISE_LINEAR, name_of, resolve

Z = np.linspace(-4, 4, 33)

CLOSED_FORMS = {
    "identity": Z,
    "relu": np.maximum(Z, 0),
    "leaky_relu": np.where(Z > 0, Z, 0.01 * Z),
    "abs": np.abs(Z),
    "tanh": np.tanh(Z),
    "sigmoid": 1 / (1 + np.exp(-Z)),
    "silu": Z / (1 + np.exp(-Z)),
    "gelu": 0.5 * Z * (1 + np.tanh(np.sqrt(2 / np.pi) * (Z + 0.044715 * Z**3))),
    "softplus": np.log(1 + np.exp(Z)),
    "erf": special.erf(Z),
    "quadratic": Z**2,
}


def test_every_named_activation_is_its_closed_form():
    assert CLOSED_FORMS.keys() == ACTIVATIONS.keys()
    for name, values in CLOSED_FORMS.items():
        # A rounding error of 1 + tanh or log(1 + …) is up to 1e3 times larger relative to the tails at −4.
        np.testing.assert_allclose(resolve(name)(jnp.asarray(Z)), values, rtol=1e-12, atol=1e-15, err_msg=name)


def test_exactly_the_piecewise_linear_ones_have_a_kink():
    # (σ(h) − 2σ(0) + σ(−h))/h is the jump of the slope at a kink (at least 0.99 here), and at most 2h elsewhere.
    h = 1e-6
    jumps = {name: abs(float(f(h) - 2 * f(0.0) + f(-h)) / h) for name, f in ACTIVATIONS.items()}
    assert {name for name, jump in jumps.items() if jump > 1e-3} == PIECEWISE_LINEAR


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_name_and_its_function_are_the_same_activation(name):
    assert name_of(name) == name
    assert name_of(ACTIVATIONS[name]) == name


@pytest.mark.parametrize("function", [jax.nn.relu, jnp.tanh, jax.nn.identity])
def test_the_functions_of_jax_are_known_by_name(function):
    assert name_of(function) in ACTIVATIONS


def test_a_function_of_the_user_is_itself_and_has_no_name():
    own = lambda z: jnp.sin(z)
    assert resolve(own) is own
    assert name_of(own) is None


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match='`activation` must be one of "identity", "relu", .* but was \'swish\''):
        resolve("swish")
