"""How sizes grow with the width, fitted, told and drawn; what the studies of width share."""

from typing import TYPE_CHECKING

import numpy as np

from ..width import WidthExponent, width_exponent

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

# Of fitted powers of the width, as in `nf.width`: it tells apart those of the schemes in use, multiples of ½.
TOLERANCE = 0.25
WITHIN = f"within {TOLERANCE:g} by two standard errors"


def exponent(values: "xarray.DataArray") -> WidthExponent:
    """The power of the width with which a size grows over (width, seed); NaN where a size is not defined."""
    sizes = values.transpose("width", "seed").values
    if not (np.isfinite(sizes).all() and sizes.min() > 0):
        return WidthExponent(np.nan, np.nan)
    return width_exponent(values["width"].values.tolist(), sizes)


def told(fit: WidthExponent) -> str:
    """An exponent as text."""
    return f"{round(fit.exponent, 2) + 0.0:+.2f} ± {fit.error:.2f}".replace("-", "−")  # no −0.00


def draw_slope(ax: "Axes", values: "xarray.DataArray", power: float) -> None:
    """A dashed line of a promised power of the width through the middle of sizes over (width, seed)."""
    n, sizes = values["width"].values, values.median("seed").values
    center, middle = np.exp(np.log(sizes).mean()), np.exp(np.log(n).mean())
    ax.plot(n, center * (n / middle) ** power, "k--", linewidth=1.0, zorder=5)


def set_widths(ax: "Axes", widths: np.ndarray) -> None:
    """Logarithmic axes, of widths and of sizes, these of a decade at least: what is flat is to look flat."""
    ax.set(xscale="log", yscale="log", xlabel="width $n$")
    ax.set_xticks(widths, [str(width) for width in widths])
    ax.set_xticks([], minor=True)
    low, high = np.log10(ax.get_ylim())
    if high - low < 1:
        ax.set_ylim(10 ** ((low + high - 1) / 2), 10 ** ((low + high + 1) / 2))
