"""Panels and claims on the change and the independence of features against the width."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ...nets.promised_exponents import promised_exponents
from ...width import width_limit
from ..judgments import Judged, Judgment, Reported, WidthPowers
from ..panels import AgainstWidth, Slope
from ..runs import Runs, Values, Where, quantiles
from ..slopes import exponent, power_as_text
from .common import HIDDEN, SCHEMES

# Features count as linearly independent if σ_min > 1e-4 σ_max: ten times the possible error of the flow.
RTOL, RESOLUTION = 1e-5, 1e-4
_LAYERS = range(1, HIDDEN + 1)
_INDEPENDENCE = [f"features.independence_{l}" for l in _LAYERS]
_ROUNDING = 1e-9  # below are only rounding errors, from dependent features; they would stretch the axis
_PROMISED = "promised power of $n$"


def promised(scheme: str, layer: int = HIDDEN) -> float | None:
    """The power of n in the change of the features of this layer; None for an unstable scheme."""
    return promised_exponents(SCHEMES[scheme], HIDDEN + 1)[f"change {layer}"]


def resolved(runs: Runs) -> Runs:
    """Add `resolved.…`: the eigenvalues of the last hidden layer, without those that are only rounding errors."""
    names = [f"{name}_{HIDDEN}{end}" for name in ("smallest", "joint") for end in ("", "_at_end")]
    values = {name: runs[f"features.{name}"] for name in names}
    return runs.assign({f"resolved.{name}": each.where(each > _ROUNDING) for name, each in values.items()})


def panels(hue: str, of: Where, title: str, prefix: str = "") -> list[AgainstWidth]:
    """Panels of the last hidden layer: at the end, and dotted at the start if it is not zero."""
    panel = partial(AgainstWidth, hue=hue, of=of, title=title, prefix=prefix)
    law = Slope({name: promised(name) for name in SCHEMES} if hue == "scheme" else 0.0)  # promised by muP
    return [
        panel(f"features.change_{HIDDEN}", label="change of features, rms", law=law, theory=_PROMISED),
        panel(f"features.relative_{HIDDEN}", label="relative change of features"),
        panel(f"resolved.smallest_{HIDDEN}", label="$\\lambda_{\\min}(HH^\\top/n)$", starts=True),
        panel(f"resolved.joint_{HIDDEN}", label="$\\lambda_{\\min}$ of $[H^0; H]$, over $n$"),
    ]


def change(scheme: str, of: Where, unclaimed: str = "") -> Judgment:
    """Features of each layer change by the promised power of the width; `unclaimed`: why this is only reported."""
    sizes = [f"features.change_{l}_at_end" for l in _LAYERS]
    powers = [power for l in _LAYERS if (power := promised(scheme, l)) is not None]
    if not powers:
        fits = lambda runs: ", ".join(power_as_text(exponent(runs[name])) for name in sizes)
        return Reported(fits, expected="not stable as n grows", of=of)
    return WidthPowers(sizes, powers, of=of, unclaimed=unclaimed and f" as n → ∞; {unclaimed}")


def independence(of: Where, outside: str = "") -> Judgment:
    """Under muP, features stay independent in every run at every time, and in the limit of infinite width."""
    if outside:
        return Reported(lambda runs: _independence(runs)[0], expected=outside, of=of)
    expected = f"σ_min/σ_max > {RESOLUTION:g} in all runs; limit of λ_min > 0 by 2 standard errors"
    return Judged(expected, _independence, _INDEPENDENCE, of=of)


def _independence(runs: Runs) -> tuple[str, bool]:
    least = min(float(runs[name].min()) for name in _INDEPENDENCE)
    limits = [_limit(runs[f"features.smallest_{l}_at_end"]) for l in _LAYERS]
    limits_as_text = ", ".join(f"{value:.2g} ± {error:.1g}" for value, error in limits)
    measured = f"σ_min/σ_max ≥ {least:.1e}; λ_min → {limits_as_text}"
    return measured, least > RESOLUTION and all(value > 2 * error for value, error in limits)


def _limit(values: Values) -> tuple[float, float]:
    fit = width_limit(values["width"].values.tolist(), values.transpose("width", "seed").values)
    return fit.limit, fit.error


def last_layer(runs: Runs) -> str:
    """The eigenvalues of the last hidden layer: values at the largest width, and powers of the width, as text."""
    of = lambda name: runs[f"features.{name}_{HIDDEN}_at_end"]
    at = lambda name: quantiles(of(name).isel(width=-1))
    power = lambda name: power_as_text(exponent(of(name)))
    is_resolved = of("joint_independence").isel(width=-1) > RESOLUTION
    return (
        f"relative change {at('relative')}; λ_min {at('smallest')} ∝ n^{power('smallest')}; joint λ_min "
        f"{at('joint')} ∝ n^{power('joint')}, [H⁰; H] independent in {int(is_resolved.sum())} of "
        f"{is_resolved.size}; loss {quantiles(runs['loss_at_end'].isel(width=-1))}"
    )


def claims(
    what: str, of: Where, unclaimed: Mapping[str, str], more: Mapping[str, Judgment] | None = None
) -> dict[str, Judgment]:
    """Claims on powers of the width and independence; reports for each parametrization.

    **Arguments:** `what`: the beginning of statements; `of`: the runs; `unclaimed`: parametrization → why its powers
    are only reported; `more`: further judgments for each parametrization, by the end of their statement.
    """
    found = {}
    for name in SCHEMES:
        found[f"{what}, {name}: change of h_l ∝ n^p, p"] = change(name, {**of, "scheme": name}, unclaimed.get(name, ""))
    mup = independence({**of, "scheme": "muP"}, unclaimed.get("muP", ""))
    found[f"{what}, muP: features of every layer stay linearly independent"] = mup
    for name in SCHEMES:
        for end, judgment in {": last hidden layer at n = {last width}": Reported(last_layer), **(more or {})}.items():
            found[f"{what}, {name}{end}"] = replace(judgment, of={**judgment.of, **of, "scheme": name})
    return found
