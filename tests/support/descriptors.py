"""What this process has open, for tests that nothing stays open."""

import contextlib
from pathlib import Path


def open_descriptors() -> set[tuple[int, str]]:
    """Number and target of each descriptor: a path, or a kind with a number, such as `pipe:[17]`."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one by which they are listed is closed by now
            found.add((int(descriptor.name), str(descriptor.readlink())))
    return found
