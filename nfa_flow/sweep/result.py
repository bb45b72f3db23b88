"""One finished run of a sweep as plain numpy arrays, which are stored, sent between processes and assembled."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..run.status import SUCCEEDED
from ..run.trajectory import Trajectory
from ..run.trees import flatten

ERROR = "error"
_RENAMED = {"reason": "solver_reason"}  # the reason of a result is that of its end
BATCH_NOTE = "batching"  # the note that says how a run was batched; `batch` is a note of `gradient_descent` itself


@dataclass(frozen=True)
class RunResult:
    """The data of a `Trajectory` that a sweep keeps: everything but the networks.

    **Attributes:** `times`, `steps`, `observed`: as in `Trajectory.reached()`, trees flattened to `observable.leaf`;
    `status`: as in `Trajectory`, or "error" after an exception; `reason`: one sentence that says how the run ended;
    `counts`, `notes`: as in `Trajectory`, without seconds; `seconds`: of this run, or its share of those of a batch.
    """

    times: Float[np.ndarray, " t"]
    steps: Int[np.ndarray, " t"]
    observed: dict[str, Shaped[np.ndarray, "t ..."]]
    status: str
    reason: str
    end_time: float
    counts: dict[str, int | float | None] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    seconds: float = float("nan")

    @property
    def succeeded(self) -> bool:
        """Whether the run reached its end, or ended by a stop rule."""
        return self.status in SUCCEEDED


def to_result(run: Trajectory, seconds: float, batch: str) -> RunResult:
    """The result of a run, with its arrays on the host. `batch`: how the run was batched."""
    run = run.reached()
    stats = {name: value for name, value in run.stats.items() if name != "seconds"}
    notes = dict(run.notes)
    words = {_RENAMED.get(name, name): word for name, word in notes.items()}
    return RunResult(
        times=np.asarray(run.times),
        steps=np.asarray(run.steps),
        observed={name: np.asarray(value) for name, value in flatten(run.observed).items()},
        status=run.status,
        reason=run.what_happened,
        end_time=float(run.end_time),
        counts={name: value for name, value in stats.items() if name not in notes},
        notes=words | {BATCH_NOTE: batch},
        seconds=seconds,
    )


def failed(error: BaseException, seconds: float = float("nan")) -> RunResult:
    """The result of a run that raised `error`."""
    nothing = np.zeros(0)
    reason = f"{type(error).__name__}: {error}"
    return RunResult(nothing, nothing.astype(int), {}, ERROR, reason, float("nan"), seconds=seconds)


Results = list[tuple[str, RunResult]]  # key of a run → result
