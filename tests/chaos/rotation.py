"""The service's access key, which is replaced while workers read it from a file."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.emulator import Emulator

MOMENT_SECONDS = 0.5  # in which the file is half written, or missing; some requests fall into it


class RotatedKey:
    """The file that workers read, and the key that the service accepts.

    Each way of replacing the file is one that people use: a rename, as of a Kubernetes secret; a program that opens the
    file and writes; a file that is deleted and comes again.
    """

    def __init__(self, emulator: Emulator, path: Path) -> None:
        self._emulator = emulator
        self.path = path
        self._number = 0
        self._key = {emulator.access_key_id: emulator.access_key_secret}
        self.ways: dict[str, Callable[[str], None]] = {
            "atomically": self._replace,
            "half-written for a moment": self._write_in_two,
            "missing for a moment": self._remove_and_write,
        }
        self._replace(_content(self._key))

    def rotate(self, way: str, *, overlap_seconds: float) -> None:
        """Replace the key. Both are accepted for so long; for 0 seconds the old one is refused before the file changes."""
        old, new = self._key, self._next_key()
        self._emulator.accept_keys(old | new if overlap_seconds else new)
        self.ways[way](_content(new))
        time.sleep(overlap_seconds)
        self._emulator.accept_keys(new)
        self._key = new

    def _next_key(self) -> dict[str, str]:
        self._number += 1
        return {f"key-{self._number}": f"secret-{self._number}"}

    def _replace(self, content: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(content)
        new.replace(self.path)

    def _write_in_two(self, content: str) -> None:
        half = len(content) // 2
        with self.path.open("w") as file:
            file.write(content[:half])
            file.flush()
            time.sleep(MOMENT_SECONDS)
            file.write(content[half:])

    def _remove_and_write(self, content: str) -> None:
        self.path.unlink()
        time.sleep(MOMENT_SECONDS)
        self.path.write_text(content)


def _content(key: dict[str, str]) -> str:
    ((key_id, secret),) = key.items()
    return json.dumps({"access_key_id": key_id, "access_key_secret": secret})
