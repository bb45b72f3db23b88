"""The progress of a sweep: runs done, running and failed, time left, gradient evaluations per second."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .result import RunResult


class Tally:
    """Counts of a sweep so far: of its `total` runs, `done` are finished, `failed` of these have failed, and `kept` of
    them were finished before it began; `running` are being computed."""

    def __init__(self, total: int, kept: int):
        self.total, self.done, self.failed, self.kept, self.running = total, kept, 0, kept, 0
        self._gradients, self._began = 0, time.perf_counter()

    def add(self, result: RunResult) -> None:
        """Count one more finished run."""
        self.done += 1
        self.failed += not result.succeeded
        counts = result.counts
        self._gradients += (counts.get("gradient_evaluations") or 0) + (counts.get("hessian_vector_products") or 0)

    def describe(self) -> str:
        """The counts in one line that fits a terminal; a product with the Hessian counts as a gradient."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        here, left = self.done - self.kept, self.total - self.done
        parts = [f"{self.done:,} of {self.total:,} runs", f"{self.running} running"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self._gradients / seconds:,.0f} gradients/s"] if here else [f"{clock(seconds)} gone"]
        return ", ".join([*parts, f"{clock(seconds / here * left)} left"] if here else parts)


@contextmanager
def shown(tally: Tally, progress: bool | Callable[[Tally], None]) -> Iterator[Callable[[Tally], None]]:
    """A function that shows a tally: on a bar on stderr, by the user's function, or not at all."""
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield lambda tally: None
        return
    with bar("sweep") as show:
        yield lambda tally: show(tally.done / tally.total, tally.describe())


@contextmanager
def bar(name: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on stderr, and the function that updates it with the finished fraction and a text."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn(name), BarColumn(bar_width=10), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown_bar:
        task = shown_bar.add_task("", total=1.0)
        yield lambda fraction, text: shown_bar.update(task, completed=fraction, description=text)


def clock(seconds: float | int) -> str:
    """Seconds as 12 s, 3:45 or 2:03:45."""
    hours, minutes, rest = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"
