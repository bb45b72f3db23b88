"""What an experiment says of its runs, and what becomes of that where runs failed or values are undefined.

One policy for all studies. A claim names the runs and the variables that it speaks of. Where one of these runs failed,
or one of these values is undefined, nothing is claimed: it is undecided, whatever the other runs have, unless the
experiment says why such runs do not matter. Values of failed runs are not used at all (`of_finished`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..run.status import finished

if TYPE_CHECKING:
    import xarray

Verdict = Literal["holds", "fails", "undecided", "reported"]


class Claim(NamedTuple):
    """A statement, what it says of a number, what was measured, the runs that it speaks of, and whether that agrees.

    `verdict`: "holds" or "fails"; "undecided" where the numbers leave it open, or runs failed, or values are undefined;
    "reported" where nothing is claimed. By `judged` and `reported`.
    """

    statement: str
    expected: str
    measured: str
    runs: str
    verdict: Verdict

    @property
    def holds(self) -> bool | None:
        """None where that is undecided, or nothing is claimed."""
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

    **Arguments:** `holds`: whether what was measured agrees, None where that is open; `runs`: those that the claim
    speaks of; `names`: the variables that it speaks of; `despite`: why failed runs and undefined values do not matter.
    """
    count = Count.of(runs, names)
    is_open = holds is None or (bool(count.failed or count.undefined) and not despite)
    verdict: Verdict = "undecided" if is_open else "holds" if holds else "fails"
    return Claim(statement, expected, measured, count.told(despite), verdict)


def reported(statement: str, measured: str, runs: "xarray.Dataset", *, expected: str = "") -> Claim:
    """Numbers about which nothing is claimed; `expected`: what others say of them."""
    return Claim(statement, expected, measured, Count.of(runs).told(), "reported")


def of_finished(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """The dataset with NaN for every number of a run that failed."""
    is_finished = finished(dataset)
    return dataset.map(lambda values: values.where(is_finished) if values.dtype.kind == "f" else values)


class Count(NamedTuple):
    """How many runs there are, how many of them failed, and how many others have an undefined value."""

    runs: int
    failed: int
    undefined: int

    @classmethod
    def of(cls, runs: "xarray.Dataset", names: Sequence[str] = ()) -> "Count":
        """Of some runs, and of the values of these variables wherever the runs were observed."""
        is_finished = finished(runs)
        undefined = is_finished & False
        for name in names:
            missing = runs[name].isnull()
            if "time" in missing.dims and "step" in runs:  # which is NaN after the end of a run
                missing = missing & runs["step"].notnull()
            undefined = undefined | missing.any([dim for dim in missing.dims if dim not in is_finished.dims])
        return cls(is_finished.size, int((~is_finished).sum()), int((undefined & is_finished).sum()))

    def told(self, despite: str = "") -> str:
        """As text, such as "48, 47 failed"."""
        parts = {"failed": self.failed, "undefined": self.undefined}
        found = "".join(f", {count} {what}" for what, count in parts.items() if count)
        return f"{self.runs}{found}" + (f" ({despite})" if found and despite else "")
