"""One finished run of a sweep as plain numpy: what is stored, sent between processes and assembled."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..run.status import SUCCEEDED
from ..run.trajectory import Trajectory
from ..run.trees import flatten

ERROR = "error"
_RENAMED = {"reason": "solver_reason"}  # the reason of a result is that of its end
BATCH_NOTE = "batching"  # the note that tells how a run was batched; a `gradient_descent` has a `batch` of its own


@dataclass(frozen=True)
class RunResult:
    """What a sweep keeps of a `Trajectory`: everything but the networks.

    **Attributes:** `times`, `steps`, `observed`: as in `Trajectory.reached()`, trees flattened to `observable.leaf`;
    `status`: as in `Trajectory`, or "error" where Python raised; `reason`: one sentence on how the run ended;
    `counts`, `notes`: as in `Trajectory`, without seconds; `seconds`: of this run, or its share of a batch.
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
        """Whether the run got to its end, or to where its stop rule wanted it."""
        return self.status in SUCCEEDED


def to_result(run: Trajectory, seconds: float, batch: str) -> RunResult:
    """The result of one run, which was batched in this way; its arrays are brought to the host."""
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
    """The result of a run in which Python raised `error`."""
    nothing = np.zeros(0)
    reason = f"{type(error).__name__}: {error}"
    return RunResult(nothing, nothing.astype(int), {}, ERROR, reason, float("nan"), seconds=seconds)


Results = list[tuple[str, RunResult]]  # key of a run → result
