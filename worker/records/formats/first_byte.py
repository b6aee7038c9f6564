"""The format that looks at the first byte of a value and chooses another format to read it.

Each choice of `records.format` is made of it: `auto` with all formats that their first byte distinguishes, the others with
fewer. The prefix of a schema registry is read under each of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

from worker.errors import Reason, RecordError
from worker.records.formats.contract import Headers, Record
from worker.records.formats.hints import resembles

Read: TypeAlias = Callable[[bytes | None, bytes, Headers], Record]


class Recognisable(Protocol):
    """A format that is recognised by the first bytes of its messages."""

    def beginnings(self) -> Mapping[bytes, Read]:
        """Return the first bytes of its messages, and what reads a message that begins so."""


class ByFirstByte:
    """Reads each message by the format that is recognised by its first bytes.

    `setting` and `expected` are for the error of a value that none of them recognises.
    """

    def __init__(self, setting: str, expected: str, formats: Sequence[Recognisable]) -> None:
        self._setting = setting
        self._expected = expected
        beginnings = {beginning: read for each in formats for beginning, read in each.beginnings().items()}
        self._reads: Final = [beginnings.get(bytes((first,))) for first in range(256)]
        self._longer = [(beginning, read) for beginning, read in beginnings.items() if len(beginning) > 1]

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        """Return what the value says. Raises `RecordError`."""
        read = self._reads[value[0]] if value else None
        if read is None:
            read = self._read_of_longer(value)
        return read(key, value, headers)

    def _read_of_longer(self, value: bytes) -> Read:
        """Return what reads a value that is recognised by more than one byte. Raises `RecordError`."""
        if not value:
            raise RecordError(Reason.MALFORMED, "the value is empty (0 bytes); a record is a JSON or MessagePack map")
        for beginning, read in self._longer:
            if value.startswith(beginning):
                return read
        known = resembles(value)
        raise RecordError(
            Reason.MALFORMED,
            f"the value begins with byte 0x{value[0]:02x}, which begins no record"
            f'{f": it looks like {known}" if known else ""}; expected {self._expected} (records.format = "{self._setting}")',
        )
