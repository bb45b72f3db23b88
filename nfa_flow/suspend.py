"""Take a run out of the function that starts it, and put its end back in.

A user's function that calls `gradient_flow` cannot be stopped halfway. Called inside `replaying(finals)` it leaves at
the first run that `finals` has no end for, by raising `Suspended` with all that is needed to integrate that run from
outside, beside others and in slices. Called again with its final state as the next of `finals`, it goes on from there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import PyTree

_finals: ContextVar[Iterator[PyTree] | None] = ContextVar("finals", default=None)


class Suspended(BaseException):
    """A run that waits to be integrated: `advance(problem, state, budget)` until its status is no longer RUNNING.

    Not an `Exception`, so that no handler in the user's function takes it for a failure.
    """

    def __init__(self, advance: Callable, problem: PyTree, state: PyTree):
        super().__init__()
        self.advance, self.problem, self.state = advance, problem, state


@contextmanager
def replaying(finals: Sequence[PyTree]) -> Iterator[None]:
    """Inside, the k-th run ends at once in the state `finals[k]`, and the first one beyond them raises `Suspended`."""
    token = _finals.set(iter(finals))
    try:
        yield
    finally:
        _finals.reset(token)


def is_replaying() -> bool:
    """Whether runs are handed out instead of being integrated."""
    return _finals.get() is not None


def replay(advance: Callable, problem: PyTree, state: PyTree) -> PyTree:
    """The final state of this run; only inside `replaying`."""
    for final in _finals.get() or ():
        return final
    raise Suspended(advance, problem, state)
