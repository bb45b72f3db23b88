"""Names in the dataset of a sweep, so that no name is used twice."""

from collections.abc import Collection, Iterable

from ...checks import wrong

_OF_EVERY_RUN = ("time", "times", "step", "status", "reason", "end_time")


def require_own_names(observed: Iterable[str], others: Iterable[str], taken: Collection[str]) -> None:
    """Raise ValueError unless each observable of a run has its own name in the dataset.

    **Arguments:** `observed`: names of the observables; `others`: names of counts and notes; `taken`: names of the axes
    and of further labels.
    """
    used = {*taken, *_OF_EVERY_RUN, *(own_name(name, taken) for name in others)}
    for name in observed:
        for variable in (name, name_at_end(name)):
            if variable in used:
                must_be = "given names that nothing else in the dataset has"
                raise wrong("observe", must_be, f"`{name}`, which is used otherwise")
            used.add(variable)


def own_name(name: str, taken: Collection[str]) -> str:
    """The name of a count or note: different from `step`, the steps at each time, and from the names of the axes."""
    name = "total_steps" if name == "steps" else name
    while name in taken:
        name += "_of_run"
    return name


def name_at_end(name: str) -> str:
    """The name of the last value of an observable."""
    return f"{name}_at_end"
