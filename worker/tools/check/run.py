"""Tries all sections at once, and reports them in their order. One that does not end in time is a fault."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Final

from worker.errors import FatalError, SettingsError, WorkerError, place_of
from worker.tools.check.report import Finding, fault

LIMIT_SECONDS: Final = 22.0
"""For all of it; a process has some seconds more to start and to end."""

Section = Callable[[], Iterable[Finding]]


def findings(
    sections: Mapping[str, Section],
    *,
    limit_seconds: float = LIMIT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Finding]:
    """Yield what each section finds, section by section.

    A thread that does not answer in time is left behind: it is a daemon, and keeps no process from ending.
    """
    queues: dict[str, SimpleQueue[Finding | None]] = {name: SimpleQueue() for name in sections}
    for name, section in sections.items():
        threading.Thread(target=_try, args=(name, section, queues[name]), name=f"check-{name}", daemon=True).start()
    deadline = clock() + limit_seconds
    for name, found in queues.items():
        try:
            while (one := found.get(timeout=max(0.001, deadline - clock()))) is not None:
                yield one
        except Empty:
            told = f"no answer within {limit_seconds:.0f} s, and the rest of this section was not tried"
            yield fault("time", name, told, "see the other faults first, then the network between here and there")


def _try(name: str, section: Section, found: "SimpleQueue[Finding | None]") -> None:
    """Put what the section finds, and None at its end."""
    try:
        for finding in section():
            found.put(finding)
    except SettingsError as error:
        for mistake in error.mistakes:
            found.put(fault("settings", name, mistake, "correct the setting"))
    except FatalError as error:
        found.put(fault("failed", name, str(error), "correct what the reason names, then check again"))
    except Exception as error:  # one section must not take the others with it
        # Its text may quote what it was given. The place where it was raised is enough.
        reason = str(error) if isinstance(error, WorkerError) else f"{type(error).__name__} at {place_of(error)}"
        found.put(fault("failed", name, f"the check itself failed: {reason}", "please report this line"))
    finally:
        found.put(None)
