"""Take a run out of the function that starts it, and return its result into that function.

A user's function that calls `gradient_flow` cannot be stopped halfway. Called inside `replaying(finals)`, it stops at
the first run without a final state in `finals`, by raising `Suspended` with everything that is needed to integrate that
run from outside, together with others and in slices. Called again with this final state added to `finals`, it continues
from there.
`nfa_flow.sweep.engines.stages` has a picture of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jax.extend.core import get_opaque_trace_state
from jaxtyping import PyTree


class Suspended(BaseException):
    """A run to be integrated: `advance(problem, state, budget)` until its status is no longer RUNNING.

    It is not an `Exception`, so that no handler in the user's function takes it for a failure.
    """

    def __init__(self, advance: Callable, problem: PyTree, state: PyTree):
        super().__init__()
        self.advance, self.problem, self.state = advance, problem, state


class Replay:
    """One call of a user's function: the final states of its runs, and the trajectories of runs that raise.

    Runs inside a transformation of the user's own (`jax.jit`, `jax.vmap`) cannot be taken out of it.
    """

    def __init__(self, finals: Sequence[PyTree]):
        self.finals = iter(finals)
        self.raising: list[Any] = []
        self.trace = get_opaque_trace_state()


_replay: ContextVar[Replay | None] = ContextVar("replay", default=None)


@contextmanager
def replaying(finals: Sequence[PyTree]) -> Iterator[Replay]:
    """Inside, the k-th run ends at once in the state `finals[k]`, and the first run without one raises `Suspended`."""
    replay = Replay(finals)
    token = _replay.set(replay)
    try:
        yield replay
    finally:
        _replay.reset(token)


def current_replay() -> Replay | None:
    """The replay to which this run belongs; None if it must be integrated here."""
    replay = _replay.get()
    return replay if replay is not None and replay.trace == get_opaque_trace_state() else None


def final_state(replay: Replay, advance: Callable, problem: PyTree, state: PyTree) -> PyTree:
    """The final state of this run; raises `Suspended` if it is not known yet."""
    for final in replay.finals:
        return final
    raise Suspended(advance, problem, state)
