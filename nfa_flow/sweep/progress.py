"""What a sweep shows while it runs: lanes done, running and failed, time left, gradient evaluations per second."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .result import RunResult


class Tally:
    """Counts of a sweep so far; `kept` runs were finished before it began."""

    def __init__(self, total: int, kept: int):
        self.total, self.done, self.failed, self.kept = total, kept, 0, kept
        self._gradients, self._began = 0, time.perf_counter()

    def add(self, result: RunResult) -> None:
        """Count one more finished run."""
        self.done += 1
        self.failed += not result.succeeded
        counts = result.counts
        self._gradients += (counts.get("gradient_evaluations") or 0) + (counts.get("hessian_vector_products") or 0)

    def describe(self, running: int) -> str:
        """One line that fits a terminal; products with the Hessian count as gradients."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        here, left = self.done - self.kept, self.total - self.done
        parts = [f"{self.done:,} of {self.total:,} runs", f"{running} running"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self._gradients / seconds:,.0f} gradients/s"] if here else [f"{_clock(seconds)} gone"]
        return ", ".join([*parts, f"{_clock(seconds / here * left)} left"] if here else parts)


@contextmanager
def shown(tally: Tally, progress: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; the function given brings it up to date, told how many runs are running."""
    if not progress:
        yield lambda running: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("sweep"), BarColumn(bar_width=10), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(tally.describe(0), total=tally.total)
        yield lambda running: bar.update(task, completed=tally.done, description=tally.describe(running))


def _clock(seconds: float) -> str:
    """Seconds as 12 s, 3:45 or 2:03:45."""
    hours, minutes, rest = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"
