"""The helper threads, watched in one way: one that ends unexpectedly ends the worker, whichever it is."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from worker.errors import FatalError


class HasThreads(Protocol):
    """Whatever has helper threads."""

    def dead_threads(self) -> Sequence[str]:
        """Return the names of its threads that were started, were not asked to end, and have ended."""


def check(helpers: Iterable[HasThreads]) -> None:
    """Raise `FatalError` with the names of the threads that ended unexpectedly, if there are any.

    Without one of its threads the worker would look alive while part of its work is not done.
    """
    if dead := [name for helper in helpers for name in helper.dead_threads()]:
        raise FatalError(f"a thread ended unexpectedly: {', '.join(dead)}; the log above has its error")
