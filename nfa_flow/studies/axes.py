"""The axes of an experiment: the values of each setting in the full study and in the smaller sizes.

Three sizes: "full" answers the question; "quick" shows in a minute that everything works; "tiny" is for tests.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..sweep import Grid
from ..sweep import batched as side_by_side
from ..sweep import looped as one_after_another

SIZES = ("full", "quick", "tiny")


@dataclass(frozen=True)
class Axis:
    """One axis: its values at each size, whether the sweep loops over them or batches them, and its label in figures.

    `label`: with a symbol between dollars, such as "depth $L$"; by default the name of the axis.
    """

    values: Mapping[str, Any]
    declare: Callable[[Any], Any]
    label: str = ""

    def at(self, size: str) -> Any:
        """The values at a size, for `nf.Grid`."""
        return self.declare(self.values[size])


def looped(full: Any, quick: Any = None, tiny: Any = None, *, label: str = "") -> Axis:
    """An axis whose values `one_run` receives unchanged; each value is compiled separately.

    **Arguments:** `full`: a sequence, or a mapping label → value; `quick`, `tiny`: other values, or labels of a
    mapping; by default, quick equals full, and tiny has the first two of quick; `label`: in figures.
    """
    return Axis(_by_size(full, quick, tiny), one_after_another, label)


def batched(full: Any, quick: Any = None, tiny: Any = None, *, label: str = "") -> Axis:
    """An axis whose values `one_run` receives as JAX scalars: one program for all of them. Arguments as in `looped`."""
    return Axis(_by_size(full, quick, tiny), side_by_side, label)


def places(names: Iterable[str]) -> dict[str, int]:
    """Name → index, for `batched`: JAX can look up a named object by a number only."""
    return {name: place for place, name in enumerate(names)}


def seeds(full: int, quick: int = 8, tiny: int = 2) -> Axis:
    """An axis of seeds, with the number of seeds at each size."""
    return Axis({"full": range(full), "quick": range(quick), "tiny": range(tiny)}, list)


def grid(axes: Mapping[str, Axis | Callable[..., Any]], size: str) -> Grid:
    """The grid of these axes; a function is a setting that depends on axes, as in `nf.Grid`."""
    return Grid(**{name: axis.at(size) if isinstance(axis, Axis) else axis for name, axis in axes.items()})


def _by_size(full: Any, quick: Any, tiny: Any) -> dict[str, Any]:
    quick = list(full) if quick is None else quick
    tiny = list(quick)[:2] if tiny is None else tiny
    part = lambda names: {name: full[name] for name in names} if isinstance(full, Mapping) else names
    return {"full": full, "quick": part(quick), "tiny": part(tiny)}
