"""How much the main loop takes in within one turn: what its time allows. Only the main loop uses it.

A message of a megabyte may cost a second. Between two turns the main loop polls, commits, pauses partitions, and shows that it is
alive. A turn that had to end its whole poll could take minutes: the watchdog would end the process before anything of it is
committed, and each process that reads the same messages next. So what a turn has no time for waits for the next one
(`waiting_room.py`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

SECONDS: Final = 0.5  # for the messages of a poll, and as much for those that waited
_FEW: Final = 8  # new messages between two looks at the clock: a look costs about 1 % of a short record


class Portion(Generic[_T]):
    """As many of some messages as there is time for. Their readers get them a few at a time, the first few in any case."""

    def __init__(self, messages: Sequence[_T], is_time_up: Callable[[], bool], few: int = _FEW) -> None:
        self._messages = messages
        self._few = few
        self._is_time_up = is_time_up
        self.left: Sequence[_T] = ()
        """What the reader did not get, or left."""

    def __iter__(self) -> Iterator[_T]:
        return chain.from_iterable(self._few_at_a_time())  # a generator of single messages would take time for each

    def _few_at_a_time(self) -> Iterator[Sequence[_T]]:
        for at in range(0, len(self._messages), self._few):
            if at and self._is_time_up():
                self.left = self._messages[at:]
                return
            yield self._messages[at : at + self._few]

    def leave_from(self, message: _T) -> None:
        """Leave a message that the reader got, and all behind it; the reader asks for no more."""
        place = next(at for at, each in enumerate(self._messages) if each is message)
        self.left = self._messages[place:]


class TurnTime:
    """The time that a turn has for messages. It has no end before `begin` is called. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends_at = math.inf
        self._few = _FEW

    def begin(self, *, are_slow: bool = False) -> None:
        """Let it begin now. `are_slow`: there was no time for the messages before, so the clock is looked at after each."""
        self._ends_at = self._clock() + SECONDS
        self._few = 1 if are_slow else _FEW

    def is_up(self) -> bool:
        """Return whether no time is left."""
        return self._clock() >= self._ends_at

    def portion_of(self, messages: Sequence[_T]) -> Portion[_T]:
        """Return as many of these as there is time for."""
        return Portion(messages, self.is_up, self._few)
