"""Tries all sections at once. One that does not end in time is a fault, and does not hold up the others."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Final

from worker.errors import FatalError, SettingsError, WorkerError, place_of
from worker.tools.check.report import Finding, fault

LIMIT_SECONDS: Final = 25.0
"""For all of it; a process has some seconds more to start and to end."""

Section = Callable[[], Iterable[Finding]]


class _End:
    """Says that a section has ended."""

    def __init__(self, name: str) -> None:
        self.name = name


def findings(
    sections: Mapping[str, Section],
    *,
    limit_seconds: float = LIMIT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Finding]:
    """Yield what each section finds, as it finds it. A thread that does not answer is left behind: it is a daemon."""
    found: SimpleQueue[Finding | _End] = SimpleQueue()
    for name, section in sections.items():
        threading.Thread(target=_try, args=(name, section, found), name=f"check-{name}", daemon=True).start()
    waiting = set(sections)
    deadline = clock() + limit_seconds
    while waiting:
        try:
            one = found.get(timeout=max(0.001, deadline - clock()))
        except Empty:
            for name in sorted(waiting):
                yield fault(
                    name, "time", f"no answer within {limit_seconds:.0f} s", "see what else is a fault; try again"
                )
            return
        if isinstance(one, _End):
            waiting.discard(one.name)
        else:
            yield one


def _try(name: str, section: Section, found: "SimpleQueue[Finding | _End]") -> None:
    try:
        for finding in section():
            found.put(finding)
    except SettingsError as error:
        for mistake in error.mistakes:
            found.put(fault(name, "settings", mistake, "correct the setting"))
    except FatalError as error:
        found.put(fault(name, name, str(error), "see the reason"))
    except Exception as error:  # one section must not take the others with it
        reason = str(error) if isinstance(error, WorkerError) else f"{type(error).__name__} at {place_of(error)}"
        found.put(fault(name, name, f"the check itself failed: {reason}", "please report this line"))
    finally:
        found.put(_End(name))
