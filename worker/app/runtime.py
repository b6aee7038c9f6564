"""How this process uses its machine: set before the libraries are loaded, for some of it they read but then."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_MMAP_FROM_BYTES: Final = 32 * 1024 * 1024  # the most that glibc takes; bodies and fetches stay below
_TRIM_FROM_BYTES: Final = 64 * 1024 * 1024


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Prepare the process for the libraries and settings that are loaded within.

    They stay for as long as the process does, and are left out of every later garbage collection: one that looks through
    them all holds up every thread for tens of milliseconds.
    """
    # No matrix is multiplied here, and the threads that would do it spin for a while before they sleep.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _hold_the_heap_together()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _hold_the_heap_together() -> None:
    """Let all threads share one heap, and use its memory again instead of asking the system for it each time.

    glibc makes a heap for each thread, and what one has freed no other takes. A block of megabytes it maps and unmaps: the
    system then clears every page of every body and every fetch, which costs a third of what is done with it. Other C
    libraries know no `mallopt`, or do nothing on it.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_FROM_BYTES)
