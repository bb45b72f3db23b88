"""Judgments: which runs a statement is about, and how their numbers decide it.

A judgment is called with the statement and the runs of an experiment, and returns claims, under the policy of `claims`.
Claims about settings that a smaller size of a study lacks are left out. Any function of statement and runs that returns
claims is a judgment.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from ..width import width_limit
from .claims import Claim, judged, reported
from .runs import Runs, Values, Where, chosen, filled, parts, quantiles
from .slopes import WITHIN, exponent, power_as_text, powers_as_text, slope, verdict


@dataclass(frozen=True)
class Judgment:
    """The arguments that all judgments share.

    **Arguments:** `of`: the settings of the runs of a claim, as in `chosen`; `each`: dimensions along which there is
    one claim for each label.
    """

    _: KW_ONLY
    of: Where = field(default_factory=dict)
    each: str | Sequence[str] = ()

    def __call__(self, statement: str, dataset: Runs) -> list[Claim]:
        """The claims about these runs, with labels in the statement (see `filled`); none without such runs."""
        runs = chosen(dataset, self.of)
        each = [] if runs is None else parts(runs, self.each)
        return [self.judge(filled(statement, labels, part), part) for labels, part in each]

    @abstractmethod
    def judge(self, statement: str, runs: Runs) -> Claim:
        """The claim about these runs."""


@dataclass(frozen=True)
class Judged(Judgment):
    """A claim that a function decides: `find` returns the measured value as text, and whether it agrees.

    **Arguments:** `expected`: a text, or a function from the runs to it; `names`: variables that must be defined;
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
    """A variable is at most a limit in all runs and, if it has times, at all times.

    **Arguments:** `expected`: a text with `{}` for the limit; `measured`: a text with `{}` for the largest value;
    `also`: a function from the runs to further text.
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
    """A variable is proportional to a power of a setting: log-log slopes between two values of the setting.

    For each combination of the other settings, the median slope over the seeds must equal the power within a tolerance.

    **Arguments:** `between`: the two values, by default the two smallest; `expected`: a text in place of the default
    one; `also`: as in `AtMost`.
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
    """Sizes are powers of the width, fitted over widths and seeds, within the tolerance that all studies share.

    **Arguments:** `sizes`: variables, or a function from the runs to values over (width, seed); `powers`: the promised
    powers; `expected`: a text in place of these; `names`: variables that must be defined, by default `sizes`;
    `unclaimed`: why the powers are reported without a claim.
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
        expected, measured = self.expected or powers_as_text(self.powers), ", ".join(map(power_as_text, fits))
        if self.unclaimed:
            return reported(statement, measured, runs, expected=f"{expected}{self.unclaimed}")
        return judged(statement, f"{expected}, {WITHIN}", measured, verdict(fits, self.powers), runs, names)


@dataclass(frozen=True)
class Tends(Judgment):
    """Means over the seeds tend to a limit as a setting grows: v_∞ of the fit v_∞ + c/n is close to the limit.

    **Arguments:** `name`: a variable over (setting, seed); `limit`: a function from the runs to the limit; `within`:
    the largest distance in standard errors; `form`: the format of the numbers; `also`: as in `AtMost`.
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
    """Numbers without a claim: a variable's median and quantiles, or the text of a function of the runs.

    `expected`: what others claim about them.
    """

    measured: str | Callable[[Runs], str]
    _: KW_ONLY
    expected: str | Callable[[Runs], str] = ""

    def judge(self, statement: str, runs: Runs) -> Claim:
        measured = self.measured(runs) if callable(self.measured) else quantiles(runs[self.measured])
        return reported(statement, measured, runs, expected=_text(self.expected, runs))


@dataclass(frozen=True)
class ForEach:
    """Several claims for each label of some dimensions; all statements have a common beginning."""

    each: str | Sequence[str]
    claims: Mapping[str, Callable[[str, Runs], Iterable[Claim]]]

    def __call__(self, statement: str, dataset: Runs) -> list[Claim]:
        """The claims, with labels in place of `{dimension}` in their statements."""
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
