"""Initial weights of fully connected networks.

An initialization is a function `(key, widths, dtype) -> (W_1, …, W_L)` with `W_l` of shape `(widths[l], widths[l-1])`;
the order of arguments is that of `jax.nn.initializers`. All arithmetic is in JAX, so seeds and scales can be batched
with `jax.vmap`.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from ..checks import require_number, wrong
from ..numerics.kernel import kernel
from ..numerics.precision import single_or_wider

Weights = tuple[Float[Array, "_ _"], ...]


class AbstractInitialization(eqx.Module):
    """A rule that draws all weight matrices of a network at once."""

    @abc.abstractmethod
    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        """Draw the weights.

        **Arguments:** `key`: PRNG key; `widths`: (inputs, hidden widths …, outputs); `dtype`: of the weights.
        **Returns:** L = len(widths) − 1 matrices, `W_l` of shape (widths[l], widths[l−1]).
        """


class Gaussian(AbstractInitialization):
    """Independent normal entries of standard deviation scale / √fan_in in every layer."""

    scale: float | Float[Array, ""] = 1.0

    def __check_init__(self):
        require_number("scale", self.scale, above=0)

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        keys = jax.random.split(key, len(widths) - 1)
        return tuple(_gaussian(*parts, self.scale, dtype) for parts in zip(keys, widths[1:], widths[:-1], strict=True))


class FanInUniform(AbstractInitialization):
    """Independent entries uniform within ±scale / √fan_in in every layer, of variance scale² / (3 fan_in).

    This is the initialization of `torch.nn.Linear` and `equinox.nn.Linear`. They also draw their biases in this way,
    while the biases of an `MLP` are zero.
    """

    scale: float | Float[Array, ""] = 1.0

    def __check_init__(self):
        require_number("scale", self.scale, above=0)

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        keys = jax.random.split(key, len(widths) - 1)
        return tuple(
            jnp.asarray(self.scale / fan_in**0.5, dtype) * jax.random.uniform(k, (fan_out, fan_in), dtype, -1, 1)
            for k, fan_out, fan_in in zip(keys, widths[1:], widths[:-1], strict=True)
        )


class Orthogonal(AbstractInitialization):
    """Uniformly random (semi-)orthogonal matrices times `scale`: W_lᵀW_l or W_lW_lᵀ is scale²·I."""

    scale: float | Float[Array, ""] = 1.0

    def __check_init__(self):
        require_number("scale", self.scale, above=0)

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        keys = jax.random.split(key, len(widths) - 1)
        return tuple(
            jnp.asarray(self.scale, dtype) * _orthonormal(*parts, dtype)
            for parts in zip(keys, widths[1:], widths[:-1], strict=True)
        )


class Balanced(AbstractInitialization):
    """Exactly balanced layers, W_{l+1}ᵀW_{l+1} = W_lW_lᵀ, around a Gaussian end-to-end matrix.

    The end-to-end matrix P = W_L…W_1 = U S Vᵀ has normal entries of standard deviation scale / √inputs. Every layer has
    the singular values S^{1/L} between aligned bases: W_l = Q_l S^{1/L} Q_{l−1}ᵀ with Q_0 = V, Q_L = U and random
    orthonormal Q_l between. Then (W_1ᵀW_1)^L = PᵀP, which gradient flow of a linear network preserves.

    **Raises:** ValueError if a hidden layer is narrower than rank(P) = min(inputs, outputs).
    **Source:** Arora, Cohen, Golowich & Hu 2019, Procedure 1.
    """

    scale: float | Float[Array, ""] = 1.0

    def __check_init__(self):
        require_number("scale", self.scale, above=0)

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        rank = min(widths[0], widths[-1])
        if any(width < rank for width in widths[1:-1]):
            raise wrong(
                "widths",
                f"at least {rank} in every hidden layer, so that a balanced network can hold an end-to-end matrix of "
                f"rank min(inputs, outputs) = {rank}",
                list(widths),
            )
        depth = len(widths) - 1
        end_key, *keys = jax.random.split(key, depth)
        wide = single_or_wider(dtype)
        end_to_end = _gaussian(end_key, widths[-1], widths[0], self.scale, wide)
        U, S, Vt = jnp.linalg.svd(end_to_end, full_matrices=False)
        between = [_orthonormal(k, width, rank, wide) for k, width in zip(keys, widths[1:-1], strict=True)]
        bases = [Vt.T, *between, U]
        root = S[None, :] ** (1 / depth)
        weights = ((after * root) @ before.T for before, after in zip(bases[:-1], bases[1:], strict=True))
        return tuple(W.astype(dtype) for W in weights)


class LambdaBalanced(AbstractInitialization):
    """λ-balanced layers: W_{l+1}ᵀW_{l+1} − W_lW_lᵀ = b·I for every hidden layer l, b ≠ 0 of either sign.

    For b > 0 the first layer is Gaussian (standard deviation scale / √fan_in) and each later layer is W_{l+1} = Q
    (W_lW_lᵀ + bI)^{1/2} with a random orthonormal Q; for b < 0 the same is done from the last layer backwards. The
    construction depends on the sign of b, so b is a number and cannot be batched; `scale` can.

    **Raises:** ValueError for b = 0 (use `Balanced`), or if the widths are not large enough for a full-rank b·I: they
    must not decrease from the first hidden layer to the output for b > 0, nor increase from the input to the last
    hidden layer for b < 0.
    **Source:** Dominé et al. 2024 (λ-balanced two-layer networks); the definition is the same for any depth.
    """

    b: float | Float[Array, ""]
    scale: float | Float[Array, ""]
    from_first: bool = eqx.field(static=True)

    def __init__(self, b: float, scale: float | Float[Array, ""] = 1.0):
        require_number("b", b)
        require_number("scale", scale, above=0)
        if b == 0:
            raise wrong("b", "non-zero (`Balanced` is the case b = 0)", b)
        self.b, self.scale, self.from_first = b, scale, b > 0

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        # A transposed and reversed network turns b into −b, so one construction serves both signs.
        outward = widths if self.from_first else widths[::-1]
        if any(after < before for before, after in zip(outward[1:-1], outward[2:], strict=True)):
            order = (
                "non-decreasing after the input for b > 0"
                if self.from_first
                else "non-increasing up to the last hidden layer for b < 0"
            )
            raise wrong("widths", f"{order}, so that W_{{l+1}}ᵀW_{{l+1}} − W_lW_lᵀ can be b·I", list(widths))
        first_key, *keys = jax.random.split(key, len(widths) - 1)
        wide = single_or_wider(dtype)
        weights = [_gaussian(first_key, outward[1], outward[0], self.scale, wide)]
        for k, width in zip(keys, outward[2:], strict=True):
            # The full square U gives W_l's null directions too, which must carry the singular value √|b|.
            U, S, _ = jnp.linalg.svd(weights[-1], full_matrices=True)
            squared = jnp.zeros(U.shape[0], wide).at[: S.size].set(S**2) + jnp.asarray(abs(self.b), wide)
            weights.append((_orthonormal(k, width, U.shape[0], wide) * jnp.sqrt(squared)[None, :]) @ U.T)
        weights = [W.astype(dtype) for W in weights]
        return tuple(weights) if self.from_first else tuple(W.T for W in reversed(weights))


def _gaussian(key, fan_out, fan_in, scale, dtype) -> Float[Array, "fan_out fan_in"]:
    return jnp.asarray(scale / fan_in**0.5, dtype) * jax.random.normal(key, (fan_out, fan_in), dtype)


def _orthonormal(key, rows, columns, dtype) -> Float[Array, "rows columns"]:
    """Uniformly distributed orthonormal columns, or rows where these are fewer.

    The columns are the first ones of the square matrix that `jax.random.orthogonal` draws with this key, by a QR of
    these columns alone: at 1024 × 10 in a fifteenth of the time.
    """
    if rows < columns:
        return _orthonormal(key, columns, rows, dtype).T
    return _first_columns(key, rows, columns, single_or_wider(dtype)).astype(dtype)


@kernel
def _first_columns(key, rows, columns, dtype) -> Float[Array, "rows columns"]:
    Q, R = jnp.linalg.qr(jax.random.normal(key, (rows, rows), dtype)[:, :columns])
    return jnp.where(jnp.diagonal(R)[None, :] < 0, -Q, Q)
