"""Small files that other programs write: settings, secrets and credentials."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

SECRET_BYTES: Final = 65_536  # a value, or credentials
SETTINGS_BYTES: Final = 1_048_576  # a file of settings
CERTIFICATE_BYTES: Final = 10_485_760  # a bundle of certificates; the largest in use have half a megabyte


def read(path: Path, most: int) -> bytes:
    """Return what a regular file of at most `most` bytes contains.

    Raises `OSError`, whose `strerror` says why in words: also for what is not a regular file, since opening a FIFO waits for
    a writer, and a device may never end. `ValueError` if the path contains a null byte.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _refuse_unusable(os.fstat(descriptor), most)
        chunks = []
        left = most + 1  # it may grow while it is read
        while left and (chunk := os.read(descriptor, left)):
            chunks.append(chunk)
            left -= len(chunk)
    finally:
        os.close(descriptor)
    if not left:
        raise _too_large(most)
    return b"".join(chunks)


def problem(path: str, most: int) -> str:
    """Return why a file cannot be read, "" where it can."""
    try:
        read(Path(path), most)
    except (OSError, ValueError) as error:
        return "no such file" if isinstance(error, FileNotFoundError) else why(error)
    return ""


def why(error: Exception) -> str:
    """Return what an error of `read`, or of reading its content, says."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _refuse_unusable(status: os.stat_result, most: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size > most:
        raise _too_large(most)


def _too_large(most: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {most} bytes")
