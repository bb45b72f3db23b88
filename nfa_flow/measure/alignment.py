"""How well the Neural Feature Ansatz NFM ∝ AGOP^power holds."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import require_choice, require_flag, require_integer, require_number, wrong
from ..numerics.kernel import kernel
from ..problem.losses import Loss, loss_or_default, resolve_of_sample
from .agop import Samples, is_whole
from .feature_pair import FeaturePair, feature_pair
from .gram_power import gram_power, power_derivative, power_from_spectrum
from .layer import Layer, by_code, layer_weight, require_net

METRICS = (
    "cosine",
    "pearson",
    "pearson_off_diagonal",
    "pearson_zero_diagonal",
    "relative_error",
    "fixed_scale_error",
    "power_up_error",
)


class Alignment(eqx.Module):
    """The observable `(net, data) -> scalar` that `alignment` makes."""

    power: float | Float[Array, ""]
    initial: Float[Array, "p d"] | None
    metric: str = eqx.field(static=True)
    layer: Layer = eqx.field(static=True, converter=by_code)
    centered: bool = eqx.field(static=True)
    agop_of_change: bool = eqx.field(static=True)
    loss: Loss | None = eqx.field(static=True)
    of_loss: bool = eqx.field(static=True)  # AGOP of the loss, and of the run's own where `loss` is None

    @property
    def from_run(self) -> tuple[str, ...]:
        """The arguments that the caller did not give, and a run supplies."""
        return ("loss",) if self.of_loss and self.loss is None else ()

    def __call__(self, net: Any, data: Samples, *, loss: Loss | None = None) -> Float[Array, ""]:
        """The score of a network on data; `loss`: the loss of a run, if none was given before."""
        if self.from_run:
            return replace(self, loss=loss_or_default(loss))(net, data)
        require_net(net)
        # Batches are read once, so they are not among the values that derivatives are taken of.
        return _score(net, data, self) if is_whole(data) else _value(self.pair(net, data), self.power, self.metric)

    def pair(self, net: Any, data: Samples) -> FeaturePair:
        """The two matrices in the form that the power and the metric need."""
        return self._pair(net, data, factor=self.needs_roots)

    def assembled(self, net: Any, data: Samples) -> FeaturePair:
        """The two matrices in full."""
        return self._pair(net, data, factor=False, reduce=False)

    def _pair(self, net: Any, data: Samples, *, factor: bool, reduce: bool = True) -> FeaturePair:
        return feature_pair(
            net,
            data,
            self.layer,
            factor=factor,
            reduce=reduce,
            centered=self.centered,
            loss=self.loss,
            initial=self.initial,
            agop_of_change=self.agop_of_change,
        )

    @property
    def needs_roots(self) -> bool:
        """Whether small eigenvalues of AGOP matter, so that its factor is needed."""
        if self.centered:  # the mean is subtracted without cancellation only in a factor
            return True
        return self.metric != "power_up_error" and not (isinstance(self.power, int | float) and self.power == 1)


def alignment(
    power: float | Float[Array, ""],
    *,
    metric: str = "cosine",
    layer: Layer = 1,
    initial: Any = None,
    agop_of_change: bool = False,
    centered: bool = False,
    loss: Loss | None = None,
) -> Alignment:
    """How well NFM = W_lᵀW_l agrees with AGOP^power, as an observable `(net, data) -> scalar`.

    With N = NFM, A = AGOP^power and the Frobenius inner product ⟨·,·⟩:
    - "cosine": ⟨N,A⟩ / (‖N‖‖A‖), in [0, 1]. It is insensitive: .9994 is an error of 3.5 %, and untrained networks
      already score between .15 and .9. Report also the value at t = 0, or `null_alignment`.
    - "pearson": the correlation between the entries of N and A, in [−1, 1]; NaN if all entries of N or of A are equal.
    - "pearson_off_diagonal": the same without the entries on the diagonals.
    - "pearson_zero_diagonal": the same with zeros on both diagonals, which count as entries.
    - "relative_error": min_c ‖N − cA‖ / ‖N‖ = √(1 − cosine²), in [0, 1], computed without the cancellation in this
      formula.
    - "fixed_scale_error": ‖N − A‖ / ‖N‖ ≥ 0: the constant c is 1, as for exactly balanced linear networks.
    - "power_up_error": ‖N^{1/power} − AGOP‖ / ‖AGOP‖ ≥ 0, also with c = 1. Large eigenvalues dominate it.

    A is computed from the singular values of a factor of AGOP, to the power 2·power; only if no root is needed (power
    1, "power_up_error") from AGOP itself, which is faster. If AGOP or NFM is zero to working precision, the ansatz is
    0/0 and the result is NaN: the factor of AGOP is not larger than the rounding errors of the weights from which it is
    computed, or ‖W_l‖² is at most machine epsilon.

    It is differentiable with respect to the network, the data and an array `power`, once (not twice).

    **Arguments:**
    - `power`: α > 0 (1/L for L balanced linear layers). An array can be batched and does not recompile.
    - `metric`: one of the above.
    - `layer`: as in `agop`.
    - `initial`: the network at the start; then N is the Gram matrix of the change W_l − W_l(0).
    - `agop_of_change`: also replace AGOP = W_lᵀKW_l by (W_l − W_l(0))ᵀK(W_l − W_l(0)).
    - `centered`, `loss`: as in `agop`.

    **Returns:** an observable; call it on a network with a `Dataset`, an array of samples, or batches of either.
    **Raises:** ValueError for power ≤ 0, an unknown metric, or layer < 1.
    **Source:** Radhakrishnan et al. 2024; Tansley, Massart & Cartis 2026. `conventions` has each paper's own choice.
    """
    require_number("power", power, above=0)
    require_choice("metric", metric, METRICS)
    if isinstance(layer, int) or not callable(layer):
        require_integer("layer", layer, at_least=1)
        layer = int(layer)
    require_flag("agop_of_change", agop_of_change)
    require_flag("centered", centered)
    if agop_of_change and initial is None:
        raise wrong("initial", "the network at the start if `agop_of_change` is True", "None")
    if loss is not None:
        resolve_of_sample(loss)
    W_0 = None if initial is None else layer_weight(initial, layer, "initial")
    return Alignment(power, W_0, metric, layer, centered, agop_of_change, loss, of_loss=loss is not None)


@eqx.filter_custom_jvp
def _score(net: Any, data: Any, alignment: Alignment) -> Float[Array, ""]:
    return _value(alignment.pair(net, data), alignment.power, alignment.metric)


@_score.def_jvp
def _score_jvp(primals: Any, tangents: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The value from factors, its derivative from assembled matrices, for which zero eigenvalues are no problem."""
    net, data, alignment = primals
    matrices = lambda net, data, alignment: (alignment.assembled(net, data), jnp.asarray(alignment.power))
    (full, power), (change, change_of_power) = eqx.filter_jvp(matrices, primals, tangents)
    pair = alignment.pair(net, data)
    slope = _slope(pair, full, change, power, change_of_power, alignment.metric)
    return _value(pair, alignment.power, alignment.metric), slope


@kernel
def _value(pair: FeaturePair, power: float | Float[Array, ""], metric: str) -> Float[Array, ""]:
    if pair.F is None:
        assert pair.G is not None
        # At most the largest eigenvalue of AGOP, and at least an r-th of that.
        size = jnp.sqrt(jnp.max(jnp.abs(pair.G)))
        A = pair.G if metric == "power_up_error" else pair.G / _unit(size, metric)
    else:
        s, Vt = pair.spectrum()
        size = s[0]
        A = pair.F.T @ pair.F if metric == "power_up_error" else power_from_spectrum(s, Vt, power, _unit(size, metric))
    return jnp.where(pair.is_undefined(size), jnp.nan, _compare(pair, _nfm(pair, power, metric), A, metric))


@kernel
def _slope(pair: FeaturePair, full: FeaturePair, change: FeaturePair, power, change_of_power, metric: str) -> Array:
    assert full.G is not None
    dV, dG, dpower = (_or_zeros(*both) for both in ((change.V, full.V), (change.G, full.G), (change_of_power, power)))
    nfm = lambda V, power: _nfm(eqx.tree_at(lambda pair: pair.V, full, V), power, metric)
    N, dN = jax.jvp(nfm, (full.V, power), (dV, dpower))
    unit = _unit(jnp.sqrt(jnp.max(jnp.abs(full.G))), metric)
    A, dA = (full.G, dG) if metric == "power_up_error" else (full.G / unit, dG / unit)
    if pair.F is not None and metric != "power_up_error":
        F = pair.F if pair.Q is None else pair.F @ pair.Q.T
        _, s, Vt = jnp.linalg.svd(F, full_matrices=True)
        unit = _unit(s[0], metric)
        A = power_from_spectrum(s, Vt[: len(s)], power, unit)
        dA = power_derivative(s, Vt, power, unit, dG, dpower)
    return jax.jvp(lambda N, A: _compare(full, N, A, metric), (N, A), (dN, dA))[1]


def _or_zeros(change: Array | None, value: Array) -> Array:
    return jnp.zeros_like(value) if change is None else change


def _unit(size: Float[Array, ""], metric: str) -> Float[Array, ""]:
    """What AGOP is divided by, so that no power of it overflows or underflows a metric that does not see its scale."""
    return jnp.ones_like(size) if metric == "fixed_scale_error" else jnp.where(size == 0, 1, size**2)


def _nfm(pair: FeaturePair, power: float | Float[Array, ""], metric: str) -> Float[Array, "r r"]:
    if metric != "power_up_error":
        return pair.nfm
    one = jnp.ones((), pair.V.dtype)
    return gram_power(pair.V, one / power, one)


def _compare(pair: FeaturePair, N: Float[Array, "r r"], A: Float[Array, "r r"], metric: str) -> Float[Array, ""]:
    if metric.startswith("pearson"):
        return _pearson(pair, N, A, metric)
    if metric == "fixed_scale_error":
        return jnp.linalg.norm(N - A) / jnp.linalg.norm(N)
    if metric == "power_up_error":
        return jnp.linalg.norm(N - A) / jnp.linalg.norm(A)
    if metric == "relative_error":
        return jnp.linalg.norm(N - (jnp.sum(N * A) / jnp.sum(A * A)) * A) / jnp.linalg.norm(N)
    return jnp.sum(N * A) / (jnp.linalg.norm(N) * jnp.linalg.norm(A))


def _pearson(pair: FeaturePair, N: Float[Array, "r r"], A: Float[Array, "r r"], metric: str) -> Float[Array, ""]:
    (sum_N, diagonal_N), (sum_A, diagonal_A) = pair.entries(N), pair.entries(A)
    count, products = pair.inputs**2, {"NN": jnp.sum(N * N), "AA": jnp.sum(A * A), "NA": jnp.sum(N * A)}
    if metric != "pearson":
        count = count - pair.inputs if metric == "pearson_off_diagonal" else count
        sum_N, sum_A = sum_N - jnp.sum(diagonal_N), sum_A - jnp.sum(diagonal_A)
        diagonals = {"NN": diagonal_N**2, "AA": diagonal_A**2, "NA": diagonal_N * diagonal_A}
        products = {name: value - jnp.sum(diagonals[name]) for name, value in products.items()}
    var_N, var_A = products["NN"] - sum_N**2 / count, products["AA"] - sum_A**2 / count
    # A matrix of equal entries has no correlation: what is left of its variance are rounding errors.
    eps = jnp.finfo(N.dtype).eps
    flat = (var_N <= 100 * eps * jnp.sum(N**2)) | (var_A <= 100 * eps * jnp.sum(A**2))
    covariance = products["NA"] - sum_N * sum_A / count
    return jnp.where(flat, jnp.nan, covariance / jnp.sqrt(jnp.where(flat, 1, var_N * var_A)))
