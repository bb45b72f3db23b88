"""Claims about the runs of an experiment, and how failed runs and undefined values affect them.

One policy for all studies. A claim names its runs and its variables. If one of these runs failed, or one of these
values is undefined, the claim is undecided, whatever the other runs show, unless the experiment gives a reason why such
runs do not matter. Values of failed runs are never used (`of_finished`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..run.status import finished

if TYPE_CHECKING:
    import xarray

Verdict = Literal["holds", "fails", "undecided", "reported"]


class Claim(NamedTuple):
    """A statement about runs: the expected value, the measured value, the number of runs, and the verdict.

    `verdict`: "holds" or "fails"; "undecided" if the numbers do not decide, or runs failed, or values are undefined;
    "reported" if nothing is claimed. Made by `judged` and `reported`.
    """

    statement: str
    expected: str
    measured: str
    runs: str
    verdict: Verdict

    @property
    def holds(self) -> bool | None:
        """Whether the claim holds; None if it is undecided, or if nothing is claimed."""
        return {"holds": True, "fails": False}.get(self.verdict)


def judged(
    statement: str,
    expected: str,
    measured: str,
    holds: bool | None,
    runs: "xarray.Dataset",
    names: Sequence[str] = (),
    *,
    despite: str = "",
) -> Claim:
    """A claim about runs.

    **Arguments:** `holds`: whether the measured value agrees with the expected one, None if that is open; `runs`: the
    runs of the claim; `names`: its variables; `despite`: why failed runs and undefined values do not matter.
    """
    count = Count.of(runs, names)
    is_open = holds is None or (bool(count.failed or count.undefined) and not despite)
    verdict: Verdict = "undecided" if is_open else "holds" if holds else "fails"
    return Claim(statement, expected, measured, count.as_text(despite), verdict)


def reported(statement: str, measured: str, runs: "xarray.Dataset", *, expected: str = "") -> Claim:
    """Numbers without a claim; `expected`: what others claim about them."""
    return Claim(statement, expected, measured, Count.of(runs).as_text(), "reported")


def of_finished(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """The dataset with NaN in place of the numbers of failed runs."""
    is_finished = finished(dataset)
    return dataset.map(lambda values: values.where(is_finished) if values.dtype.kind == "f" else values)


class Count(NamedTuple):
    """How many runs there are, how many of them failed, and how many others have an undefined value."""

    runs: int
    failed: int
    undefined: int

    @classmethod
    def of(cls, runs: "xarray.Dataset", names: Sequence[str] = ()) -> "Count":
        """The counts for these runs, where these variables must be defined at all times of observation."""
        is_finished = finished(runs)
        undefined = is_finished & False
        for name in names:
            missing = runs[name].isnull()
            if "time" in missing.dims and "step" in runs:  # `step` is NaN after the end of a run
                missing = missing & runs["step"].notnull()
            undefined = undefined | missing.any([dim for dim in missing.dims if dim not in is_finished.dims])
        return cls(is_finished.size, int((~is_finished).sum()), int((undefined & is_finished).sum()))

    def as_text(self, despite: str = "") -> str:
        """The counts as text, such as "48, 47 failed"."""
        parts = {"failed": self.failed, "undefined": self.undefined}
        found = "".join(f", {count} {what}" for what, count in parts.items() if count)
        return f"{self.runs}{found}" + (f" ({despite})" if found and despite else "")
