"""The kinds of claims that experiments make: of which runs a statement speaks, and how their numbers decide it.

Each is called with the statement and the runs of an experiment, and gives claims by the one policy of `claims`. Claims
about settings that a smaller size of a study does not have are left out. A function of statement and runs is a kind of
its own.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from ..width import width_limit
from .claims import Claim, judged, reported
from .runs import Runs, Values, Where, chosen, filled, parts, quantiles
from .slopes import WITHIN, exponent, powers_as_text, slope, told, verdict


@dataclass(frozen=True)
class Judgment:
    """What all kinds share.

    **Arguments:** `of`: the settings of the runs that a claim speaks of, as in `chosen`; `each`: dimensions along which
    there is one claim for each label.
    """

    _: KW_ONLY
    of: Where = field(default_factory=dict)
    each: str | Sequence[str] = ()

    def __call__(self, statement: str, dataset: Runs) -> list[Claim]:
        """The claims about these runs, with labels in the statement as `filled` has it; none without such runs."""
        runs = chosen(dataset, self.of)
        each = [] if runs is None else parts(runs, self.each)
        return [self.judge(filled(statement, labels, part), part) for labels, part in each]

    @abstractmethod
    def judge(self, statement: str, runs: Runs) -> Claim:
        """The claim about some of the runs."""


@dataclass(frozen=True)
class Judged(Judgment):
    """A claim of its own kind: `find` gives what was measured in the runs, and whether that is what is expected.

    **Arguments:** `expected`: as text, or a function from the runs to it; `names`: variables that must be defined;
    `despite`: as in `claims.judged`.
    """

    expected: str | Callable[[Runs], str]
    find: Callable[[Runs], tuple[str, bool | None]]
    names: Sequence[str] = ()
    _: KW_ONLY
    despite: str = ""

    def judge(self, statement: str, runs: Runs) -> Claim:
        measured, holds = self.find(runs)
        return judged(statement, _text(self.expected, runs), measured, holds, runs, self.names, despite=self.despite)


@dataclass(frozen=True)
class AtMost(Judgment):
    """A variable is at most a limit in all runs and, where it has times, at all times.

    **Arguments:** `expected`: as text, with `{}` for the limit; `measured`: the same for the number; `also`: a function
    from the runs to what is said beside it.
    """

    name: str
    limit: float
    expected: str = "relative error ≤ {}"
    _: KW_ONLY
    measured: str = "≤ {}"
    also: Callable[[Runs], str] | None = None

    def judge(self, statement: str, runs: Runs) -> Claim:
        worst = float(runs[self.name].max())
        measured = self.measured.replace("{}", f"{worst:.1g}") + _beside(self.also, runs)
        expected = self.expected.replace("{}", f"{self.limit:g}")
        return judged(statement, expected, measured, worst <= self.limit, runs, [self.name])


@dataclass(frozen=True)
class PowerLaw(Judgment):
    """A variable is proportional to a power of a setting: slopes in logarithms between two values of the setting.

    The median over the seeds of each other setting must be the power within a tolerance.

    **Arguments:** `between`: the two values, by default the smallest; `expected`: in place of what is said of the
    slope; `also`: as in `AtMost`.
    """

    name: str
    against: str
    power: float
    within: float
    _: KW_ONLY
    between: tuple[Any, Any] | None = None
    expected: str = ""
    also: Callable[[Runs], str] | None = None

    def judge(self, statement: str, runs: Runs) -> Claim:
        slopes = slope(runs[self.name], self.against, self.between)
        off = float(np.abs(slopes.median("seed") - self.power).max())
        expected = self.expected or f"median slope {self.power:g} ± {self.within:g}"
        measured = f"{quantiles(slopes, '{:.3f}')}{_beside(self.also, runs)}"
        return judged(statement, expected, measured, off <= self.within, runs, [self.name])


@dataclass(frozen=True)
class WidthPowers(Judgment):
    """Sizes grow by powers of the width, fitted over widths and seeds, within the tolerance that all studies share.

    **Arguments:** `sizes`: variables, or a function from the runs to values over (width, seed); `powers`: the promised
    ones; `expected`: in place of these as text; `names`: variables that must be defined, by default `sizes`;
    `unclaimed`: why powers are reported only.
    """

    sizes: Sequence[str] | Callable[[Runs], Sequence[Values]]
    powers: Sequence[float]
    _: KW_ONLY
    expected: str = ""
    names: Sequence[str] = ()
    unclaimed: str = ""

    def judge(self, statement: str, runs: Runs) -> Claim:
        sizes = self.sizes(runs) if callable(self.sizes) else [runs[name] for name in self.sizes]
        names = self.names or (() if callable(self.sizes) else self.sizes)
        fits = [exponent(each) for each in sizes]
        expected, measured = self.expected or powers_as_text(self.powers), ", ".join(map(told, fits))
        if self.unclaimed:
            return reported(statement, measured, runs, expected=f"{expected}{self.unclaimed}")
        return judged(statement, f"{expected}, {WITHIN}", measured, verdict(fits, self.powers), runs, names)


@dataclass(frozen=True)
class Tends(Judgment):
    """Means over the seeds tend to a limit as a setting grows: v_∞ of v_∞ + c/n is within some standard errors of it.

    **Arguments:** `name`: of a variable over (setting, seed); `limit`: a function from the runs to it; `within`: how
    many standard errors; `form`: of the numbers; `also`: as in `AtMost`.
    """

    name: str
    against: str
    limit: Callable[[Runs], float]
    within: float
    _: KW_ONLY
    form: str = ".5g"
    also: Callable[[Runs], str] | None = None

    def judge(self, statement: str, runs: Runs) -> Claim:
        values, limit = runs[self.name].transpose(self.against, "seed"), float(self.limit(runs))
        fit = width_limit(values[self.against].values.tolist(), values.values)
        off = abs(fit.limit - limit) / fit.error
        measured = f"{fit.limit:{self.form}} ± {fit.error:.1g}, off by {off:.1f} standard errors"
        expected = f"{limit:{self.form}} within {self.within:g} standard errors"
        return judged(
            statement, expected, measured + _beside(self.also, runs), bool(off <= self.within), runs, [self.name]
        )


@dataclass(frozen=True)
class Reported(Judgment):
    """Numbers about which nothing is claimed: a variable's median and quantiles, or what a function makes of the runs.

    `expected`: what others say of them.
    """

    told: str | Callable[[Runs], str]
    _: KW_ONLY
    expected: str | Callable[[Runs], str] = ""

    def judge(self, statement: str, runs: Runs) -> Claim:
        measured = self.told(runs) if callable(self.told) else quantiles(runs[self.told])
        return reported(statement, measured, runs, expected=_text(self.expected, runs))


@dataclass(frozen=True)
class ForEach:
    """For each label of some dimensions, in turn, several claims, whose statements have a common beginning."""

    each: str | Sequence[str]
    claims: Mapping[str, Callable[[str, Runs], Iterable[Claim]]]

    def __call__(self, statement: str, dataset: Runs) -> list[Claim]:
        """The claims, in whose statements a label replaces `{dimension}`."""
        return [
            claim
            for labels, runs in parts(dataset, self.each)
            for more, judge in self.claims.items()
            for claim in judge(filled(f"{statement}{more}", labels, runs), runs)
        ]


def _text(text: str | Callable[[Runs], str], runs: Runs) -> str:
    return text(runs) if callable(text) else text


def _beside(also: Callable[[Runs], str] | None, runs: Runs) -> str:
    return "" if also is None else also(runs)
