"""What things are called in the dataset of a sweep, so that no two have one name."""

from collections.abc import Collection, Iterable

from ...checks import wrong

_OF_EVERY_RUN = ("time", "times", "step", "status", "reason", "end_time")


def require_own_names(observed: Iterable[str], others: Iterable[str], taken: Collection[str]) -> None:
    """Raise unless each observable of a run has a name of its own in the dataset.

    **Arguments:** `observed`: names of the observables; `others`: of counts and notes; `taken`: of the axes and of
    further labels.
    """
    used = {*taken, *_OF_EVERY_RUN, *(own_name(name, taken) for name in others)}
    for name in observed:
        for variable in (name, name_at_end(name)):
            if variable in used:
                must_be = "given names that nothing else in the dataset has"
                raise wrong("observe", must_be, f"`{name}`, which is used otherwise")
            used.add(variable)


def own_name(name: str, taken: Collection[str]) -> str:
    """Of a count or note: the steps at each time are there too, and axes have the names that the user gave them."""
    name = "total_steps" if name == "steps" else name
    while name in taken:
        name += "_of_run"
    return name


def name_at_end(name: str) -> str:
    """Of the last value of an observable."""
    return f"{name}_at_end"
