"""Synthetic data with a known truth: linear maps, functions of a few directions, and a closed-form counterexample.

Shapes and the link are Python values. The key, the noise and the covariance can be traced, so a teacher can be called
under `jax.jit`, and for many keys and noise levels with `jax.vmap`. With the same key, another noise level changes only
the noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from ..checks import (
    is_traced,
    named_function,
    real_array,
    require_finite,
    require_integer,
    require_key,
    require_number,
    wrong,
)
from .dataset import Dataset
from .noise import add_label_noise
from .whitening import whiten as whitened

Link = str | Callable[[Array], Array]
"""A name, or a function of the index coordinates z of all samples."""

MULTI_INDEX_LINKS: dict[str, Callable] = {
    "staircase": lambda z: jnp.sum(jnp.cumprod(z, axis=1), axis=1),  # z_1 + z_1 z_2 + z_1 z_2 z_3 + …
    "product": lambda z: jnp.prod(z, axis=1),
    "relu_sum": lambda z: jnp.sum(jax.nn.relu(z), axis=1),
}

SINGLE_INDEX_LINKS: dict[str, Callable] = {
    "hermite": lambda z: z + (z**2 - 1) / 2**0.5,  # He_1 + He_2/√2
    "quadratic": lambda z: (z**2 - 1) / 2**0.5,  # He_2/√2: no linear part, so that one gradient step learns nothing
    "relu": jax.nn.relu,
}


def linear_teacher(
    samples: int,
    inputs: int,
    outputs: int = 1,
    *,
    key: PRNGKeyArray,
    rank: int | None = None,
    noise: float | Float[Array, ""] = 0.0,
    whiten: bool = False,
    covariance: ArrayLike | None = None,
) -> Dataset:
    """Targets y = A x + noise · N(0, I) of a random matrix A, and x ~ N(0, covariance).

    A is Gaussian or, with a rank r, a product of a Gaussian outputs × r and r × inputs matrix. In both cases its
    entries have standard deviation 1/√inputs. The index is an orthonormal basis of its row space.

    **Arguments:**
    - `samples`, `inputs`, `outputs`: n, d and c.
    - `key`: PRNG key.
    - `rank`: of A, at most min(inputs, outputs); full if None.
    - `noise`: standard deviation of the label noise.
    - `whiten`: whether to make S_xx of the sample exactly I, before the targets are computed.
    - `covariance`: of the inputs, d × d; I if None.

    **Returns:** n samples with an index of d × rank.
    **Raises:** ValueError for sizes below 1, a rank out of range, negative noise, a matrix that is not a covariance, or
    whitening with samples < inputs.
    """
    require_key("key", key)
    require_integer("outputs", outputs, at_least=1)
    require_number("noise", noise, at_least=0)
    x_key, left_key, right_key, noise_key = jax.random.split(key, 4)
    x = _draw_inputs(x_key, samples, inputs, covariance, whiten)
    if rank is None:
        A = right = jax.random.normal(right_key, (outputs, inputs), x.dtype) / inputs**0.5
    else:
        _require_rank(rank, min(inputs, outputs), "min(inputs, outputs)")
        right = jax.random.normal(right_key, (rank, inputs), x.dtype)
        A = jax.random.normal(left_key, (outputs, rank), x.dtype) @ right / (rank * inputs) ** 0.5
    index, _ = jnp.linalg.qr(right.T)
    return add_label_noise(Dataset(x, x @ A.T, index=index), noise, key=noise_key)


def multi_index(
    samples: int,
    inputs: int,
    rank: int,
    *,
    key: PRNGKeyArray,
    outputs: int = 1,
    noise: float | Float[Array, ""] = 0.0,
    link: Link = "staircase",
    covariance: ArrayLike | None = None,
    whiten: bool = False,
) -> Dataset:
    """Targets y = link(Uᵀx) + noise · N(0, I) that depend on x through a random r-dimensional subspace only.

    The index U is orthonormal and uniformly distributed. Links by name, of the index coordinates z = Uᵀx:
    "staircase" z_1 + z_1 z_2 + z_1 z_2 z_3 + …, "product" z_1 z_2 … z_r, "relu_sum" Σ relu(z_k).
    With several outputs each one is the named link of its own random rotation of z.

    **Arguments:**
    - `samples`, `inputs`: n and d.
    - `rank`: r ≤ d, the dimension of the subspace.
    - `key`: PRNG key.
    - `outputs`: c, for a named link; a function returns its own number of outputs.
    - `noise`: standard deviation of the label noise.
    - `link`: a name, or a function from z (n × r) to targets (n or n × c).
    - `covariance`: of the inputs, d × d; I if None.
    - `whiten`: whether to make S_xx of the sample exactly I, before the targets are computed.

    **Returns:** n samples with the index U of d × r.
    **Raises:** ValueError for sizes below 1, a rank out of range, negative noise, an unknown link or one that returns
    other shapes, a matrix that is not a covariance, or whitening with samples < inputs.
    **Source:** the staircase: Abbe, Boix-Adsera & Misiakiewicz 2022.
    """
    require_key("key", key)
    require_integer("outputs", outputs, at_least=1)
    require_number("noise", noise, at_least=0)
    function = named_function("link", link, MULTI_INDEX_LINKS, "of the index coordinates")
    x_key, index_key, rotation_key, noise_key = jax.random.split(key, 4)
    x = _draw_inputs(x_key, samples, inputs, covariance, whiten)
    _require_rank(rank, inputs, "inputs")
    index = jax.random.orthogonal(index_key, inputs, dtype=x.dtype, m=rank)
    z = x @ index
    if isinstance(link, str) and outputs > 1:
        rotations = jax.random.orthogonal(rotation_key, rank, (outputs,), x.dtype)
        y = jax.vmap(lambda rotation: function(z @ rotation), out_axes=1)(rotations)
    else:
        y = function(z)
    if jnp.ndim(y) not in (1, 2) or y.shape[0] != samples or (outputs > 1 and y.shape[1:] != (outputs,)):
        expected = f"({samples}, {outputs})" if outputs > 1 else f"({samples},) or ({samples}, c)"
        raise wrong("link", f"a function from shape {z.shape} to shape {expected}", f"one to shape {jnp.shape(y)}")
    return add_label_noise(Dataset(x, y, index=index), noise, key=noise_key)


def single_index(
    samples: int,
    inputs: int,
    *,
    key: PRNGKeyArray,
    noise: float | Float[Array, ""] = 0.0,
    link: Link = "hermite",
    covariance: ArrayLike | None = None,
    whiten: bool = False,
) -> Dataset:
    """Targets y = link(uᵀx) + noise · N(0, 1) for a uniformly random unit vector u.

    Links by name, of z = uᵀx: "hermite" z + (z² − 1)/√2, "quadratic" (z² − 1)/√2, "relu" max(z, 0).

    **Arguments:** as for `multi_index`; a function as `link` maps a vector z (n) to targets (n).
    **Returns:** n samples, one output, with the index u as a d × 1 matrix.
    **Raises:** ValueError as for `multi_index`.
    **Source:** the "hermite" teacher: Moniri, Lee, Hassani & Dobriban 2024.
    """
    function = named_function("link", link, SINGLE_INDEX_LINKS, "of the index coordinate")
    return multi_index(
        samples,
        inputs,
        key=key,
        rank=1,
        noise=noise,
        link=lambda z: function(z[:, 0]),
        covariance=covariance,
        whiten=whiten,
    )


def orthogonal_support(targets: ArrayLike, probabilities: ArrayLike) -> Dataset:
    """Inputs e_1 … e_n (the unit vectors) of probability p_i and target y_i: x = I, the probabilities are the weights.

    A network Σ_k a_k relu(w_kᵀx) of small balanced weights fits these with NFM = diag(y_i) and AGOP = diag(p_i y_i²).
    No power of AGOP is proportional to NFM if y_i and p_i y_i² have different orders.

    **Arguments:** `targets`: y_i > 0; `probabilities`: p_i ≥ 0 that sum to 1. Both can be traced.
    **Returns:** n samples of n inputs and one output, weighted.
    **Raises:** ValueError for targets that are not positive, or weights that are not probabilities.
    """
    targets = _vector("targets", targets)
    if not is_traced(targets) and targets.min() <= 0:
        raise wrong("targets", "positive everywhere", f"{targets.min():g} at its smallest")
    probabilities = _vector("probabilities", probabilities)
    if probabilities.shape != targets.shape:
        raise wrong("probabilities", f"{targets.size} numbers, one for each of `targets`", f"{probabilities.size}")
    if not is_traced(probabilities):
        if probabilities.min() < 0:
            raise wrong("probabilities", "non-negative everywhere", f"{probabilities.min():g} at its smallest")
        if abs(probabilities.sum() - 1) > _SUM_ERROR:
            raise wrong("probabilities", "numbers that sum to 1", f"summing to {probabilities.sum():g}")
    return Dataset(jnp.eye(targets.size), targets, weight=probabilities)


_SUM_ERROR = 1e-5  # far above the rounding of float32, far below a mistake


def _vector(argument: str, values: ArrayLike) -> Float[Array, " n"]:
    array = real_array(argument, values, "n").astype(jnp.zeros(()).dtype)
    require_finite(argument, array)
    if not array.size:
        raise wrong(argument, "at least one number", "none")
    return array


def vanishing_alignment(epsilon: float | Float[Array, ""]) -> Dataset:
    """The two orthogonal inputs whose NFM and AGOP^{1/2} become orthogonal as ε → 0, at zero loss.

    This is `orthogonal_support` with targets (ε^{−1/2}, 1) and probabilities (ε³, 1 − ε³).

    **Arguments:** `epsilon`: between 0 and 1, both excluded (can be traced).
    **Returns:** two samples of two inputs and one output, weighted.
    **Raises:** ValueError for an `epsilon` out of range.
    """
    require_number("epsilon", epsilon, above=0)
    if not is_traced(epsilon) and epsilon >= 1:
        raise wrong("epsilon", "a number between 0 and 1", f"{epsilon:g}")
    epsilon = jnp.asarray(epsilon, jnp.zeros(()).dtype)
    return orthogonal_support(jnp.stack([epsilon**-0.5, epsilon**0]), jnp.stack([epsilon**3, 1 - epsilon**3]))


def _draw_inputs(key, samples, inputs, covariance, whiten) -> Float[Array, "n d"]:
    require_integer("samples", samples, at_least=1)
    require_integer("inputs", inputs, at_least=1)
    if whiten and samples < inputs:
        raise wrong("samples", f"at least inputs = {inputs} with whiten=True, so that S_xx can be I", samples)
    x = jax.random.normal(key, (samples, inputs))
    if covariance is not None:
        x = x @ _square_root(covariance, inputs)
    return whitened(Dataset(x, x[:, :1])).x if whiten else x


def _square_root(covariance, inputs) -> Float[Array, "d d"]:
    C = real_array("covariance", covariance, inputs, inputs).astype(jnp.zeros(()).dtype)
    require_finite("covariance", C)
    eigenvalues, V = jnp.linalg.eigh(C)
    if not is_traced(C):
        if not jnp.allclose(C, C.T):
            raise wrong("covariance", "symmetric", f"up to {jnp.abs(C - C.T).max():.1g} away from it")
        if eigenvalues[0] < -(inputs * jnp.finfo(C.dtype).eps) * eigenvalues[-1]:
            raise wrong("covariance", "positive semi-definite", f"of smallest eigenvalue {eigenvalues[0]:g}")
    return (V * jnp.sqrt(jnp.maximum(eigenvalues, 0))[None, :]) @ V.T


def _require_rank(rank: int, most: int, name: str) -> None:
    require_integer("rank", rank, at_least=1)
    if rank > most:
        raise wrong("rank", f"at most {name} = {most}", rank)
