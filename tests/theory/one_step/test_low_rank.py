import jax
import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy.stats import norm

from nfa_flow.theory import GradientDirection, hermite, hermite_series, spike_matrix, spike_sizes
from nfa_flow.theory.hermite import factorials, monomials_in_hermite, normalized_hermite

DIRECTION = GradientDirection(norm=1.3, cosine=0.8, scatter=0.6)


def test_of_a_polynomial_it_is_the_sum_of_the_terms():
    c, eta, width, K = [0.0, 1.0, 0.3, 0.1], 2.0, 50, 4
    tau = eta * c[1] * DIRECTION.norm / width**0.5
    scale = np.sqrt(factorials(K + 1))
    H = monomials_in_hermite(K) * scale
    j, i = np.indices(H.shape)
    smoothed = H * (1 + DIRECTION.scatter**2) ** (np.maximum(j - i, 0) / 2)  # E[(u + sξ)^j] in the normalized basis
    terms = sum(c[k] * tau**k * np.outer(smoothed[k], H[k]) for k in (1, 2, 3))
    S = spike_matrix(hermite_series(c), eta, DIRECTION, width, max_order=K)
    np.testing.assert_allclose(S, width**0.5 * terms, rtol=1e-10, atol=1e-12)


def test_of_a_relu_it_follows_from_the_smoothed_relu():
    eta, width, K = 8.0, 100, 6
    tau = eta * 0.5 * DIRECTION.norm / width**0.5
    x, weights = hermegauss(100)
    weights = weights / weights.sum()
    u, v = np.meshgrid(x, x, indexing="ij")
    spread, shift = np.hypot(1, tau * DIRECTION.scatter * v), tau * u * v
    m = shift * norm.cdf(shift / spread) + spread * norm.pdf(shift / spread) - norm.pdf(0)
    h = normalized_hermite(x, K) * weights
    # τ = 0.52, where the rules of 40 and 100 nodes agree to this.
    np.testing.assert_allclose(
        spike_matrix("relu", eta, DIRECTION, width, max_order=K), width**0.5 * h @ m @ h.T, atol=1e-6
    )


@pytest.mark.parametrize("name, order", [("softplus", 2), ("tanh", 3)])
def test_small_steps_give_the_sizes_of_the_source(name, order):
    # To leading order in τ = 1e-2 and without scatter, the second singular value of S is what its term has beside the
    # first, and u³ = He_3 + 3u has 6 of E[u^6] = 15 beside u.
    direction, width = GradientDirection(norm=1.0, cosine=1.0), 400
    activation = hermite(name)
    eta = 1e-2 * width**0.5 / activation.coefficients[1]
    singular = np.linalg.svd(spike_matrix(name, eta, direction, width), compute_uv=False)
    first, other = spike_sizes(eta, activation, 1.0, width, (1, order))
    left = {2: 1, 3: 6 / 15}[order]
    np.testing.assert_allclose(singular[:2], [first, other * left], rtol=1e-3)


def test_the_mean_of_the_activation_does_not_count():
    S = spike_matrix("softplus", 3.0, DIRECTION, 50)
    np.testing.assert_allclose(spike_matrix(lambda z: jax.nn.softplus(z) - 5, 3.0, DIRECTION, 50), S, atol=1e-12)


@pytest.mark.parametrize(
    "argument, changed",
    [
        ("eta", {"eta": 0.0}),
        ("direction.norm", {"direction": DIRECTION._replace(norm=0.0)}),
        ("direction.scatter", {"direction": DIRECTION._replace(scatter=-1.0)}),
        ("width", {"width": 0}),
        ("max_order", {"max_order": 0}),
    ],
)
def test_wrong_argument_is_named(argument, changed):
    arguments = {"activation": "relu", "eta": 1.0, "direction": DIRECTION, "width": 10}
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        spike_matrix(**(arguments | changed))
