"""Whether anybody works for an executor: dask keeps work for ever, also for workers that never come."""

import time
from concurrent.futures import Executor
from typing import Any

_PATIENCE_SECONDS = 60.0  # without a worker
_PERIOD_SECONDS = 2.0  # between two looks


class Watch:
    """Looks after the workers of a dask executor; others break by themselves when they lose theirs."""

    def __init__(self, executor: Executor):
        is_dask = type(executor).__module__.partition(".")[0] == "distributed"
        self._client = getattr(executor, "_client", None) if is_dask else None
        self._looked = self._seen = time.monotonic()

    def look(self) -> None:
        """Look again, if the last time is a while ago.

        **Raises:** RuntimeError when there have been no workers for a minute, and none are on their way.
        """
        now = time.monotonic()
        if self._client is None or now - self._looked < _PERIOD_SECONDS:
            return
        self._looked = now
        if _has_workers(self._client):
            self._seen = now
        elif now - self._seen > _PATIENCE_SECONDS:
            raise RuntimeError(
                f"the executor has had no workers for {_PATIENCE_SECONDS:g} s, and none are on their way: "
                "start some (`cluster.scale(…)`), or see what they said before they ended"
            )


def _has_workers(client: Any) -> bool:
    """Whether there are any, or any that were asked for: a job may wait in the queue of a cluster for days."""
    try:
        if client.nthreads():
            return True
    except Exception:  # a scheduler that is gone: it cancels the futures, which tells more
        return True
    return client.cluster is not None and bool(getattr(client.cluster, "workers", True))
