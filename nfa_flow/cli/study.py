"""`nfa-flow study`: measure the claims of a paper."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..run.files import require_parents
from .cache import Cache
from .common import failures, start_jax
from .terminal import console, table


@dataclass(frozen=True)
class Study:
    """Run the experiments of a study, draw their figures, and print which claims hold.

    Every finished run is kept. After an interruption the same command continues; if all runs are finished, it only
    draws the figures again.
    """

    name: tyro.conf.Positional[Literal["nfa", "rich-features", "spectral", "spikes"]]
    """nfa: the Neural Feature Ansatz, exact flow against optimizers; rich-features: change of features as width grows;
    spectral: norms of updates against width; spikes: one gradient step, theory and simulation"""
    figure: tuple[str, ...] = ()
    """names of experiments, all by default"""
    quick: bool = False
    """few and small runs, in three minutes on two cores, instead of the full study"""
    tiny: bool = False
    """the smallest runs, to try the command; their claims mean nothing"""
    out: Path | None = None
    """folder for stores, tables and figures; by default runs/NAME, runs/NAME-quick, or runs/NAME-tiny"""
    accept: tuple[str, ...] = ()
    """names of settings that may differ between this command and the finished runs in the stores"""
    progress: bool = True
    """show a progress bar"""
    cache: Cache = True
    debug: bool = False
    """show the traceback of an error"""

    def run(self) -> None:
        """Run what is missing, and print the results."""
        start_jax("float64", cache=self.cache)
        import matplotlib

        matplotlib.use("Agg")
        from nfa_flow.checks import require_choice, wrong
        from nfa_flow.studies.study import read_claims, write_claims

        say, began = console().print, time.perf_counter()
        study, only = _study(self.name), self.figure or None
        for name in self.figure:
            require_choice("figure", name, [experiment.name for experiment in study.experiments])
        if self.quick and self.tiny:
            raise wrong("tiny", "left out if `quick` is given", "given too")
        size = "quick" if self.quick else "tiny" if self.tiny else "full"
        out = self.out or Path("runs") / (self.name if size == "full" else f"{self.name}-{size}")
        require_parents("out", out / "claims.csv")
        read_claims(out / "claims.csv")  # refuses another file of this name before the first run
        experiments = [study[name] for name in self.figure] or study.experiments
        questions = "\n".join(f"{each.name}: {each.question}" for each in experiments)
        say(f"{study.source}\n{questions}\nThe {size} study, in {out}")
        results = study.run(out, size=size, only=only, accept=self.accept, progress=self.progress)
        for name, dataset in results.items():
            for reason, count in failures(dataset).items():
                say(f"{name}: {count} of {dataset['status'].size} runs failed: {reason}")
        figures, claims = study.draw(results, out), study.claims(results)
        say(_table(claims))
        written = [write_claims(claims, out / "claims.csv"), *figures]
        say(f"Wrote {', '.join(map(str, written))} in {time.perf_counter() - began:.1f} s.")


def _study(name: str) -> Any:
    import nfa_flow as nf

    studies = nf.studies
    known = (
        studies.neural_feature_ansatz,
        studies.rich_features,
        studies.spectral_condition,
        studies.one_step_spikes,
    )
    return {study.name: study for study in known}[name]


def _table(claims: Any) -> Any:
    rows = table(("experiment", "claim", "expected", "measured", "runs", ""), left=6)
    for name, claim in claims:
        rows.add_row(name, *claim)
    return rows
