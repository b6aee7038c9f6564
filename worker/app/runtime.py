"""How this process uses its machine. It is set before the libraries are loaded, since some read it only then."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_MMAP_FROM_BYTES: Final = 32 * 1024 * 1024  # the most that glibc accepts; bodies and fetches are smaller
_TRIM_FROM_BYTES: Final = 64 * 1024 * 1024


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Prepare the process for the libraries and settings that are loaded within.

    Their objects live as long as the process, and every later garbage collection leaves them out: one that visits them all
    stops every thread for tens of milliseconds.
    """
    # No matrix is multiplied here, and the threads for it use CPU time before they sleep.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _share_one_heap()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _share_one_heap() -> None:
    """Let all threads share one heap, and reuse its memory instead of asking the system for it each time.

    glibc makes a heap for each thread, and no thread reuses what another has freed. It maps and unmaps each block of
    megabytes, and the system clears every page of it: of every body and every fetch, which costs a third of the work that
    is done with them. Other C libraries have no `mallopt`, or one that does nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_FROM_BYTES)
