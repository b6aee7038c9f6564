"""Threads that run one at a time, in an order that the test chooses, on a clock that does not move.

A task is code of the worker that would block: it gives its turn back at `pause`, and gets the next one when the test
says so. What can happen between two steps of two threads then happens in the order of the test's choice, again and
again the same.
"""

import threading
from collections.abc import Callable
from typing import Final, Self

from tests.support.fakes import FakeClock

LIMIT_S: Final = 30.0


class _Ended(BaseException):
    """Raised in a task that must end. No error of the worker's, so that none of its handlers catches it."""


class Task:
    """One thread; it runs only within `Turns.step`."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.go = threading.Semaphore(0)
        self.ready: Callable[[], bool] = _at_once
        self.wakes_at: float | None = None
        self.error: BaseException | None = None
        self.has_ended = False
        self.is_frozen = False  # gets no turn, as a thread of a process that is stopped
        self._work = work
        self.thread = threading.Thread(target=self._run, args=(), name=name, daemon=True)
        self.turns: Turns

    def _run(self) -> None:
        self.go.acquire()
        try:
            if not self.turns.are_over:
                self._work()
        except _Ended:
            pass
        except BaseException as error:  # it is raised again in the test's thread
            self.error = error
        self.has_ended = True
        self.turns.given_back.release()


def _at_once() -> bool:
    return True


class Turns:
    """Gives turns to tasks. As a context manager it ends them all."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.given_back = threading.Semaphore(0)
        self.are_over = False
        self._tasks: list[Task] = []
        self._running: Task | None = None

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all tasks."""
        self.are_over = True
        for task in self._tasks:
            if not task.has_ended:
                self._give(task)
            task.thread.join(LIMIT_S)

    def add(self, name: str, work: Callable[[], None]) -> Task:
        """Add a task; it begins with its first turn."""
        task = Task(name, work)
        task.turns = self
        self._tasks.append(task)
        task.thread.start()
        return task

    def ready(self) -> list[Task]:
        """Return the tasks that would do something with a turn."""
        return [task for task in self._tasks if not task.has_ended and self._is_ready(task)]

    def _is_ready(self, task: Task) -> bool:
        if task.is_frozen:
            return False
        return task.ready() or (task.wakes_at is not None and self.clock() >= task.wakes_at)

    def step(self, choice: int) -> bool:
        """Give one turn to the ready task that `choice` falls on; False where none is ready."""
        ready = self.ready()
        if not ready:
            return False
        task = ready[choice % len(ready)]
        self._give(task)
        if task.error is not None:
            raise task.error
        return True

    def _give(self, task: Task) -> None:
        self._running = task
        task.go.release()
        if not self.given_back.acquire(timeout=LIMIT_S):
            message = f"{task.thread.name} does not give its turn back"
            raise AssertionError(message)
        self._running = None

    def sleep_until_next(self) -> bool:
        """Let time pass until a task's pause is over; False where none has one."""
        awake = [task for task in self._tasks if not (task.has_ended or task.is_frozen)]
        times = [task.wakes_at for task in awake if task.wakes_at is not None]
        if not times:
            return False
        self.clock.now = max(self.clock.now, min(times))
        return True

    def pause(self, ready: Callable[[], bool] = _at_once, seconds: float | None = None) -> None:
        """Give the turn back, until the test gives another: when `ready()`, or so many seconds are over."""
        task = self._running
        assert task is not None
        task.ready = ready
        task.wakes_at = None if seconds is None else self.clock() + seconds
        self.given_back.release()
        task.go.acquire()
        if self.are_over:
            raise _Ended
        task.ready, task.wakes_at = _at_once, None

    def let_others(self) -> None:
        """Give the turn back for once, where the caller is a task; the test's own thread continues."""
        if self._running is not None:
            self.pause()
