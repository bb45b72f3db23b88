"""λ-balanced two-layer networks without decay: a closed form tells how the ansatz bends, and the flow keeps to it."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ... import measure, nets
from ...data import linear_teacher
from ...measure.exponent import fit_power_law
from ...sweep import Grid, looped
from ...trajectory import Trajectory
from ..experiment import Claim, Experiment
from ..training import ExactFlow
from .common import observables

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

# A hidden layer that is no wider than input and output can have a balance of either sign.
_INPUTS, _HIDDEN, _OUTPUTS, _SAMPLES = 10, 5, 5, 200
_FLOW = ExactFlow(30.0, rtol=1e-9)


def grid(quick: bool) -> Grid:
    """Balances of both signs × seeds."""
    return Grid(b=looped([-1.0, 0.0, 1.0] if quick else [-3.0, -1.0, -0.3, 0.0, 0.3, 1.0, 3.0]), seed=range(8 if quick else 16))


def one_run(key: PRNGKeyArray, b: float) -> Trajectory:
    """Two linear layers with W_2ᵀW_2 − W_1W_1ᵀ = bI on the data of a linear teacher with label noise."""
    data_key, net_key = jax.random.split(key)
    data = linear_teacher(data_key, _SAMPLES, _INPUTS, _OUTPUTS, noise=0.1)
    init = nets.LambdaBalanced(b, scale=0.3) if b else nets.Balanced(scale=0.3)
    net = nets.MLP([_INPUTS, _HIDDEN, _OUTPUTS], key=net_key, init=init)
    observe = observables(1 / 2) | {
        "spectrum": measure.spectrum,
        "identity_error": lambda net, data: identity_error(net, b),
        "identity_exponent": lambda net, data: identity_exponent(net, b),
    }
    return _FLOW(net, data, net_key, observe=observe, progress=False)


def identity_error(net: nets.MLP, b: float) -> Float[Array, ""]:
    """‖NFM − (−bI + (b²I + 4 AGOP)^{1/2})/2‖ / ‖NFM‖, on the row space of P = W_2W_1."""
    _, s, Vt = _singular_values(net)
    nfm, predicted = measure.nfm(net), (Vt.T * predicted_eigenvalues(s, b)) @ Vt
    return jnp.linalg.norm(nfm - predicted) / jnp.linalg.norm(nfm)


def identity_exponent(net: nets.MLP, b: float) -> Float[Array, ""]:
    """The exponent that `measure.fit_exponent` finds where the NFM is what the identity makes of AGOP."""
    _, s, _ = _singular_values(net)
    return fit_power_law(s**2, predicted_eigenvalues(s, b), s > 0).exponent


def predicted_eigenvalues(s: Float[Array, " k"], b: float) -> Float[Array, " k"]:
    """(−b + (b² + 4s²)^{1/2})/2 without cancellation, for singular values s of P."""
    total = jnp.hypot(b, 2 * s) + jnp.abs(b)
    return jnp.where(b < 0, total / 2, 2 * s**2 / total)


def _singular_values(net: nets.MLP):
    W_1, W_2 = net.weights
    return jnp.linalg.svd(W_2 @ W_1, full_matrices=False)
