"""Does training scale with the width as the parametrization promises? Sizes against width, with verdicts.

The sizes of activations, outputs and updates of networks of growing width n are measured before and after training, as
powers of n. A stable parametrization promises all of them, layer by layer: activations n⁰ at the start, updates
n^{−r_l}, changes of the activations n^{−r} with the smallest r_l up to their layer, outputs n^{½ − (a_L + b_L)} at the
start. A broken promise means an error in the code, a width too small for the limit, or training too long for it.

**Source:** Yang et al. 2022 (Tensor Programs V), appendix on the coordinate check; the exponents are those of Yang & Hu
2021 and Yang & Littwin 2023, the sizes of updates those of Yang, Simon & Bernstein 2023.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float64, PRNGKeyArray

from ..checks import called, require_integer, require_number, wrong
from ..data import Dataset
from ..nets import MLP, AbstractParametrization
from ..nets.promised_exponents import promised_exponents
from ..numerics.kernel import kernel
from .coordinates import Coordinates
from .fits import require_widths, width_exponent


@dataclass(frozen=True)
class Scaling:
    """How one size grows with the width n.

    `sizes`: (widths, seeds); `exponent`, `error`: the fitted power of n and its standard error; `promised`: the
    promised power, None without a promise; `holds`: whether the promise holds, None if this is open.
    """

    sizes: Float64[np.ndarray, "w s"]
    exponent: float
    error: float
    promised: float | None
    holds: bool | None


@dataclass(frozen=True)
class CoordinateCheck:
    """The sizes of a coordinate check by name, in `scalings`; `print` shows them as a table."""

    parametrization: AbstractParametrization
    widths: tuple[int, ...]
    scalings: Mapping[str, Scaling]

    @property
    def passed(self) -> bool | None:
        """False if a promise is broken, True if all hold, None if this is open, as for an unstable parametrization."""
        verdicts = [scaling.holds for scaling in self.scalings.values()]
        return False if False in verdicts else None if None in verdicts else True

    def __str__(self) -> str:
        words = {True: "holds", False: "BROKEN", None: "open"}
        title = f"{self.parametrization.name}, widths {', '.join(map(str, self.widths))}: {words[self.passed]}"
        rows = [f"{'':<20}{'exponent':>17}{'promised':>10}"]
        for name, scaling in self.scalings.items():
            promised = "none" if scaling.promised is None else f"{scaling.promised + 0.0:+.2f}"  # no −0.00
            fitted = f"{scaling.exponent:+.3f} +- {scaling.error:.3f}"
            rows.append(f"{name:<20}{fitted:>17}{promised:>10}  {words[scaling.holds]}")
        return "\n".join([title, *rows])


def coordinate_check(
    build: Callable[..., MLP],
    train: Callable[[MLP, Dataset], MLP],
    data: Dataset,
    widths: Sequence[int],
    *,
    key: PRNGKeyArray,
    seeds: int = 4,
    tolerance: float = 0.25,
) -> CoordinateCheck:
    """Train networks of several widths and compare the growth of their coordinates with the parametrization's promises.

    The sizes are those of `Coordinates`. With the standard error e, a promise holds if |exponent − promised| + 2e ≤
    `tolerance`, and is broken if |exponent − promised| − 2e > `tolerance`; otherwise it is open.

    **Arguments:**
    - `build`: `(width, key=) -> MLP`, with a parametrization.
    - `train`: `(net, data) -> net`, such as `lambda net, data: nf.gradient_flow(net, data, 1.0).net`: to the same time,
      or for the same number of steps, at every width.
    - `data`: the same data for all networks, for training and for the sizes.
    - `widths`: at least three, increasing.
    - `key`: PRNG key; every width and seed gets its own.
    - `seeds`: networks per width.
    - `tolerance`: of exponents. ¼ distinguishes those of the usual parametrizations, which are multiples of ½.

    **Returns:** a `CoordinateCheck`.
    **Raises:** ValueError naming the argument.
    """
    require_widths(widths)
    require_integer("seeds", seeds, at_least=1)
    require_number("tolerance", tolerance, above=0)
    nets = [[build(n, key=each) for each in jax.random.split(jax.random.fold_in(key, n), seeds)] for n in widths]
    parametrization = [_parametrization_of(net) for row in nets for net in row][0]
    promises = promised_exponents(parametrization, nets[0][0].depth)
    trained = lambda net: called("train", "a function (net, data) to the trained network", train, net, data)
    measured = [[_sizes(net, trained(net), data) for net in row] for row in nets]
    sizes = {name: np.array([[each[name] for each in row] for row in measured], float) for name in promises}
    scalings = {name: _scaling(widths, sizes[name], promise, tolerance) for name, promise in promises.items()}
    return CoordinateCheck(parametrization, tuple(widths), scalings)


def _parametrization_of(net: Any) -> AbstractParametrization:
    if not isinstance(net, MLP) or net.parametrization is None:
        raise wrong("build", "a function (width, key=) to an `MLP` with a parametrization", f"one to {net!r}")
    return net.parametrization


@kernel
def _sizes(net: MLP, trained: MLP, data: Dataset) -> dict[str, Float[Array, ""]]:
    return Coordinates(net)(trained, data)


def _scaling(
    widths: Sequence[int], sizes: Float64[np.ndarray, "w s"], promised: float | None, tolerance: float
) -> Scaling:
    if not np.isfinite(sizes).all():  # blown up, which nobody promises
        return Scaling(sizes, np.nan, np.nan, promised, None if promised is None else False)
    if sizes.min() == 0:
        return Scaling(sizes, np.nan, np.nan, promised, None)
    exponent, error = width_exponent(widths, sizes)
    if promised is None:
        return Scaling(sizes, exponent, error, promised, None)
    gap = abs(exponent - promised)
    holds = True if gap + 2 * error <= tolerance else False if gap - 2 * error > tolerance else None
    return Scaling(sizes, exponent, error, promised, holds)
