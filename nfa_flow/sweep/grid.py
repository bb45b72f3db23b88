"""The settings of a sweep: named axes, every combination of their values, one run each."""

import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..checks import wrong
from .identity.describe import describe_value

Kind = Literal["batched", "looped"]

SEED = "seed"
# The last three are what xarray's `sel` calls its own options: `dataset.sel(method="adam")` would select nothing.
_RESERVED = ("key", "time", "step", "times", "status", "reason", "end_time", "run", "method", "tolerance", "drop")


@dataclass(frozen=True)
class Axis:
    """One axis.

    **Attributes:** `values`: as `one_run` gets them; `labels`: a number or a word for each value, which the results
    show; `identities`: a description of each value by which runs are recognized, because a label may keep its name
    while the value behind it changes; `kind`: "batched" if runs with different values are integrated side by side,
    "looped" if one after another, None if the sweep decides.
    """

    name: str
    values: tuple[Any, ...]
    labels: tuple[Any, ...]
    identities: tuple[Any, ...]
    kind: Kind | None


@dataclass(frozen=True)
class Declared:
    """Values of an axis together with its kind."""

    values: Any
    kind: Kind


def batched(values: Iterable[Any]) -> Declared:
    """Values of an axis that are integrated side by side: `one_run` must accept them as JAX scalars."""
    return Declared(values, "batched")


def looped(values: Iterable[Any] | Mapping[str, Any]) -> Declared:
    """Values of an axis that `one_run` gets as Python values; each value is compiled separately."""
    return Declared(values, "looped")


class Zipped:
    """Axes that advance together; see `zipped`."""

    def __init__(self, axes: Mapping[str, Any]):
        if not axes:
            raise wrong("zipped", "given at least one axis", "empty")
        self.axes = tuple(_make_axis(name, values) for name, values in axes.items())
        lengths = {axis.name: len(axis.values) for axis in self.axes}
        if len(set(lengths.values())) > 1:
            raise wrong("zipped", "axes of equal length", ", ".join(f"{name} of {n}" for name, n in lengths.items()))


def zipped(**axes: Any) -> Zipped:
    """Axes of equal length that advance together, along one dimension that is named after the first of them.

    `nf.Grid(nf.zipped(width=[64, 256], scale=[0.3, 0.1]), seed=range(8))` has 2 × 8 runs.
    """
    return Zipped(axes)


@dataclass(frozen=True)
class Setting:
    """The settings of one run: its place in the grid, the values that `one_run` gets, their labels and identities."""

    index: tuple[int, ...]
    values: dict[str, Any]
    labels: dict[str, Any]
    identities: dict[str, Any]

    @property
    def key(self) -> str:
        """Identifies this run among all runs of one function."""
        return hashlib.sha256(json.dumps(self.identities, sort_keys=True).encode()).hexdigest()[:32]


class Grid:
    """Every combination of the values of named axes.

    `nf.Grid(depth=[2, 3, 4], weight_decay=[0, 1e-3, 1e-2], seed=range(64))` has 3 · 3 · 64 runs. The axes become
    dimensions of the result.

    **Arguments:**
    - An axis is a list of numbers, words or functions. Other values need labels, given by a mapping, such as
      `init={"balanced": nf.nets.Balanced(0.3), "gaussian": nf.nets.Gaussian()}`.
    - `seed`: whole numbers; `one_run` gets `key=jax.random.key(seed)`, and also `seed` if it has such a parameter. The
      key depends on nothing else: runs of one seed share their randomness across all other settings, and a new value on
      an axis changes no other run. Without this axis, the key is that of seed 0.
    - A function, such as `power=lambda depth: 1 / depth`, is a setting that depends on others, and no dimension. Each
      of its parameters is an axis or has a default.
    - `nf.zipped(…)`, before all other arguments: axes that advance together.
    - `nf.batched(values)` and `nf.looped(values)` decide whether runs with different values share a program. Otherwise
      the sweep batches seeds, and each axis of fractions that `one_run` accepts as JAX scalars. Whole numbers are
      looped: write 1.0 instead of 1 if they may be batched.

    **Raises:** ValueError that names the axis, if it is empty, has the same value twice, or has an unusable name.
    """

    def __init__(self, *together: Zipped, **axes: Any):
        for zip_ in together:
            if not isinstance(zip_, Zipped):
                raise wrong("Grid", "given positional arguments from `nf.zipped`", repr(zip_))
        self.derived: dict[str, Callable] = {n: v for n, v in axes.items() if inspect.isfunction(v)}
        alone = tuple((_make_axis(n, v),) for n, v in axes.items() if n not in self.derived)
        self.bundles: tuple[tuple[Axis, ...], ...] = tuple(zip_.axes for zip_ in together) + alone
        names = [axis.name for axis in self.axes] + list(self.derived)
        for name in names:
            if name in _RESERVED or "." in name or "/" in name:
                raise wrong("Grid", f'axes with names other than {", ".join(_RESERVED)} and without "." and "/"', name)
            if names.count(name) > 1:
                raise wrong(name, "one axis", "given twice")
        self._check_distinct()
        self._check_seed()
        for name, rule in self.derived.items():
            known = [axis.name for axis in self.axes]
            for parameter in inspect.signature(rule).parameters.values():
                if parameter.name not in known and parameter.default is parameter.empty:
                    raise wrong(name, f"a function of axes ({', '.join(known)})", f"of {parameter.name}")
        self._tables = {name: self._tabulate(rule) for name, rule in self.derived.items()}

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes; zipped ones are listed one by one."""
        return tuple(axis for bundle in self.bundles for axis in bundle)

    @property
    def names(self) -> set[str]:
        """The names of all axes, and of the settings that depend on them."""
        return {axis.name for axis in self.axes} | set(self.derived)

    @property
    def dimensions(self) -> dict[str, tuple[Any, ...]]:
        """Dimension → labels along this dimension."""
        return {bundle[0].name: bundle[0].labels for bundle in self.bundles}

    @property
    def coordinates(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Further labels along the dimensions: of axes that are zipped to another one, and of dependent settings."""
        found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            axis.name: ((bundle[0].name,), np.asarray(axis.labels)) for bundle in self.bundles for axis in bundle[1:]
        }
        for name, (dimensions, values) in self._tables.items():
            axes = [self.bundles[i][0] for i in dimensions]
            labels = np.asarray([_label(name, value) for value in values.values()])
            found[name] = tuple(axis.name for axis in axes), labels.reshape([len(axis.values) for axis in axes])
        return found

    def __len__(self) -> int:
        return int(np.prod([len(bundle[0].values) for bundle in self.bundles], dtype=int))

    def __iter__(self) -> Iterator[Setting]:
        """The settings of every run, the last axis fastest."""
        indices = itertools.product(*(range(len(bundle[0].values)) for bundle in self.bundles))
        return map(self.setting, indices)

    def setting(self, index: tuple[int, ...]) -> Setting:
        """The settings of the run at this place along the dimensions."""
        placed = [(axis, i) for bundle, i in zip(self.bundles, index, strict=True) for axis in bundle]
        values = {axis.name: axis.values[i] for axis, i in placed}
        labels = {axis.name: axis.labels[i] for axis, i in placed}
        derived = {
            name: values[tuple(index[i] for i in dimensions)] for name, (dimensions, values) in self._tables.items()
        }
        identities = {axis.name: axis.identities[i] for axis, i in placed}
        return Setting(
            index,
            values | derived,
            labels | {name: _label(name, value) for name, value in derived.items()},
            identities | {name: _identity(name, value) for name, value in derived.items()},
        )

    def __repr__(self) -> str:
        sizes = " x ".join(f"{' & '.join(a.name for a in bundle)} {len(bundle[0].values)}" for bundle in self.bundles)
        return f"Grid({len(self)} runs: {sizes or 'one setting'})"

    def _tabulate(self, rule: Callable) -> tuple[list[int], dict[tuple[int, ...], Any]]:
        """The dimensions that a rule depends on, and its values by the place along them.

        A parameter without an axis of its name keeps its default.
        """
        parameters = inspect.signature(rule).parameters
        taken = {i: [axis for axis in bundle if axis.name in parameters] for i, bundle in enumerate(self.bundles)}
        taken = {i: axes for i, axes in taken.items() if axes}
        places, values = list(np.ndindex(*(len(axes[0].values) for axes in taken.values()))), []
        for place in places:
            chosen = zip(taken.values(), place, strict=True)
            values.append(_plain(rule(**{axis.name: axis.values[i] for axes, i in chosen for axis in axes})))
        return list(taken), dict(zip(places, _alike(values), strict=True))

    def _check_distinct(self) -> None:
        for bundle in self.bundles:
            labels = bundle[0].labels
            twice = [label for label in labels if labels.count(label) > 1]
            if twice:
                raise wrong(bundle[0].name, "an axis of distinct values", f"{twice[0]!r} more than once")

    def _check_seed(self) -> None:
        for axis in self.axes:
            if axis.name == SEED:
                for value in axis.values:
                    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
                        raise wrong(SEED, "an axis of whole numbers in [0, 2³²)", repr(value))


def _make_axis(name: str, values: Any) -> Axis:
    kind: Kind | None = None
    if isinstance(values, Declared):
        values, kind = values.values, values.kind
    if isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise wrong(name, "a list of values, or a mapping from labels to values", repr(values))
    if isinstance(values, Mapping):
        labels, chosen = tuple(str(label) for label in values), tuple(values.values())
        kind = kind or "looped"
    else:
        chosen = _alike([_plain(value) for value in values])
        labels = tuple(_label(name, value) for value in chosen)
    if not chosen:
        raise wrong(name, "an axis with at least one value", "empty")
    identities = tuple(_identity(label, value) for label, value in zip(labels, chosen, strict=True))
    return Axis(name, chosen, labels, identities, kind)


def _alike(values: list[Any]) -> tuple[Any, ...]:
    """The values of an axis in one type: whole numbers among fractions become fractions."""
    kinds = {type(value) for value in values}
    return tuple(float(value) for value in values) if kinds == {int, float} else tuple(values)


def _label(name: str, value: Any) -> Any:
    if _is_plain(value):
        return value
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    if isinstance(value, tuple | list) and all(_is_plain(item) for item in value):
        return " ".join(str(item) for item in value)
    raise wrong(name, 'an axis of numbers, words or functions, or a mapping {"label": value}', f"with {value!r}")


def _identity(label: Any, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)  # 1 and 1.0 are the same value, even if the axis gets a fraction later
    return value if _is_plain(value) else {"label": label, "value": describe_value(value)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """Python's own number, for a scalar of numpy or JAX."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
