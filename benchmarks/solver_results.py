"""What was measured, kept on disk after every cell, and what follows from it: the work that a method needs to an error.

A cell is one method at one tolerance on one problem up to one time. Its `status` is "completed", "timed out" or
"failed"; its `error` is ‖θ(T) − θ_ref(T)‖/‖θ_ref(T)‖, None where there is no reference.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from solver_problems import PROBLEMS

TRUSTED = 3  # an error below this many times the uncertainty of the reference is not known
_WORK = {"seconds": "seconds", "gradients": "gradients and Hessian-vector products"}


class Results:
    """The results in one JSON file, and the reference solutions beside it; what is there already is not run again."""

    def __init__(self, path: Path, tables: Sequence[str] = ("problems", "references", "cells", "scaling")):
        self.path = path
        empty: dict[str, Any] = {"machine": {}} | {table: {} for table in tables}
        self.all = json.loads(path.read_text()) if path.exists() else empty

    def write(self) -> None:
        """Replace the file at once, so that a kill leaves the old one or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.all, indent=1))
        os.replace(partial, self.path)

    def put(self, table: str, key: str, entry: dict) -> None:
        """Keep an entry and write the file."""
        self.all[table][key] = entry
        self.write()

    def problem(self, name: str, fingerprint: str) -> dict | None:
        """What is known of a problem; where the problem has changed since, everything about it is dropped."""
        known = self.all["problems"].get(name)
        if known is not None and known["fingerprint"] != fingerprint:
            del self.all["problems"][name]
            for table in ("references", "cells"):
                self.all[table] = {key: e for key, e in self.all[table].items() if e["problem"] != name}
            return None
        return known

    def cells(self, problem: str, t1: float, method: str) -> list[dict]:
        """The cells of one method, loosest tolerance first."""
        matches = lambda cell: (cell["problem"], cell["t1"], cell["method"]) == (problem, t1, method)
        return sorted(filter(matches, self.all["cells"].values()), key=lambda cell: -cell["rtol"])

    def uncertainty(self, problem: str, t1: float) -> float | None:
        """By how much two reference solutions differ; None where there is no reference."""
        return self.all["references"].get(reference_key(problem, t1), {}).get("uncertainty")

    def already_too_slow(self, problem: str, t1: float, method: str, rtol: float, limit: float) -> dict | None:
        """A cell that timed out with as much time, at the same tolerance and no longer horizon.

        A looser tolerance says nothing: near the limit of stability an explicit method may need more steps with it.
        """
        tried = [attempt for reference in self.all["references"].values() for attempt in reference["tried"]]
        for cell in [*self.all["cells"].values(), *tried]:
            no_harder = cell["t1"] <= t1 and cell["rtol"] == rtol and cell["limit"] >= limit
            measured = cell["status"] == "timed out" and "because" not in cell
            if measured and no_harder and (cell["problem"], cell["method"]) == (problem, method):
                return cell
        return None


def cell_key(problem: str, t1: float, method: str, rtol: float) -> str:
    """Names a cell."""
    return f"{problem}, T = {t1:g}, {method}, rtol {rtol:g}"


def reference_key(problem: str, t1: float) -> str:
    """Names a reference solution."""
    return f"{problem}, T = {t1:g}"


class Amount(NamedTuple):
    """Seconds, gradients or a ratio, known (""), or only bounded: "≤" or "<" (from above), "≥" or ">" (from below)."""

    value: float
    bound: str = ""

    def over(self, other: "Amount") -> "Amount | None":
        """The ratio, with the bound that follows; None where nothing follows."""
        turned = other.bound.translate(str.maketrans("≤<≥>", "≥>≤<"))
        if {self.bound, turned} & set("≤<") and {self.bound, turned} & set("≥>"):
            return None
        return Amount(self.value / other.value, self.bound or turned)

    def __str__(self) -> str:
        return f"{self.bound}{self.value:.2g}" if self.value < 1000 else f"{self.bound}{self.value:.0f}"


def spent(cell: dict, work: str) -> float:
    """The "seconds" of a cell, or its "gradients" together with its Hessian-vector products."""
    return cell["seconds"] if work == "seconds" else cell["gradients"] + (cell["products"] or 0)


def work_to(error: float, cells: list[dict], work: str) -> Amount | None:
    """The work of a method to an error, interpolated between its tolerances on log scales, never extrapolated.

    Where even the loosest tolerance is more accurate, its work is an upper bound. Where no cell is accurate enough, a
    lower bound is the limit of seconds if one timed out, else the work of the most accurate. None where nothing was
    measured.
    """
    # Kvaerno5 does not count its gradients.
    done = [cell for cell in cells if cell["status"] == "completed" and cell["error"] and cell[work] is not None]
    known = [Amount(spent(cell, work), "≤") for cell in done if cell["error"] <= error]
    for loose, tight in zip(done[:-1], done[1:], strict=True):
        if tight["error"] <= error < loose["error"]:
            x = np.log([tight["error"], loose["error"]])
            y = np.log([spent(tight, work), spent(loose, work)])
            known.append(Amount(float(np.exp(np.interp(np.log(error), x, y)))))
    limits = [cell["limit"] for cell in cells if cell["status"] == "timed out" and work == "seconds"]
    if known or not (limits or done):
        return min(known, default=None)
    most_accurate = min(done, key=lambda cell: cell["error"], default=None)
    return Amount(min(limits) if limits or most_accurate is None else spent(most_accurate, work), ">")


def best(amounts: list[Amount | None]) -> Amount | None:
    """The smallest amount of those that reached the error; the smallest lower bound where none did."""
    measured = [amount for amount in amounts if amount is not None]
    reached = [amount for amount in measured if amount.bound != ">"]
    return min(reached or measured, key=lambda amount: amount.value, default=None)


def summary(results: Results, horizons: dict[str, list[float]], explicit: list[str]) -> str:
    """The tables of the work to errors, and of how many times more the peers take than ours."""
    lines = [
        "Work to an error of the parameters, interpolated between the tolerances tried: ≤ where even the loosest is",
        "more accurate, > where none is accurate enough or the limit ended the run, – where nothing was measured or no",
        "bound follows, ? where the reference is not known that well. The last columns are ratios to the work of ours.",
    ]
    alone = lambda *methods: {method: [method] for method in methods}
    smooth = alone("default", "NDF") | {"explicit": explicit} | alone("CVODE")
    across_kinks = alone("default", "Piecewise", "Smoothed", "TSRKC3", "Tsit5") | {"explicit": explicit}
    for problem, t1 in ((problem, t1) for problem, times in horizons.items() for t1 in times):
        if PROBLEMS[problem].has_kinks:
            lines += _table(results, problem, t1, "seconds", across_kinks, "Piecewise", ["Tsit5", "explicit"])
            lines += _table(results, problem, t1, "gradients", across_kinks, "Piecewise", ["Tsit5", "explicit"])
        else:
            lines += _table(results, problem, t1, "seconds", smooth, "NDF", ["explicit", "CVODE"])
    return "\n".join(lines)


def _table(
    results: Results, problem: str, t1: float, work: str, columns: dict[str, list[str]], ours: str, peers: list[str]
) -> list[str]:
    """The work of the best method of each column, and that of the peers over that of ours, for some errors."""
    uncertainty = results.uncertainty(problem, t1)
    known = "none" if uncertainty is None else f"known to {uncertainty:.0e}"
    lines = ["", f"{PROBLEMS[problem].title}, T = {t1:g}, {_WORK[work]} (reference: {known})"]
    lines.append(_aligned(["error", *columns, *(f"{peer}/{ours}" for peer in peers)]))
    for error in (1e-3, 1e-4, 1e-6, 1e-8):
        doubtful = uncertainty is not None and error < TRUSTED * uncertainty
        amounts = {
            column: best([work_to(error, results.cells(problem, t1, method), work) for method in methods])
            for column, methods in columns.items()
        }
        pairs = [(amounts[peer], amounts[ours]) for peer in peers]
        ratios = [peer.over(own) if peer and own else None for peer, own in pairs]
        shown = ["–" if amount is None else str(amount) for amount in (*amounts.values(), *ratios)]
        lines.append(_aligned([f"{error:.0e}{'?' if doubtful else ''}", *shown]))
    return lines


def _aligned(entries: Sequence[str]) -> str:
    return "".join(f"{entry:>{max(14, len(entry) + 2)}}" for entry in entries)
