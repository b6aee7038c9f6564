"""The first bytes choose the format; a value that begins no record is refused in words."""

from collections.abc import Mapping

import pytest

from worker.errors import Reason, RecordError
from worker.records.formats.contract import Headers, Record
from worker.records.formats.first_byte import ByFirstByte, Read


class Begins:
    """A format whose messages begin with any of these."""

    def __init__(self, *beginnings: bytes) -> None:
        self._beginnings = beginnings

    def beginnings(self) -> Mapping[bytes, Read]:
        return dict.fromkeys(self._beginnings, self.read)

    def read(self, _key: bytes | None, _value: bytes, _headers: Headers) -> Record:
        return Record(self._beginnings[0].decode())


def by_first_byte() -> ByFirstByte:
    return ByFirstByte("auto", "one of two", [Begins(b"{", b"\xef\xbb\xbf"), Begins(b"#")])


@pytest.mark.parametrize(("value", "key"), [(b"{}", "{"), (b"#", "#"), (b"\xef\xbb\xbf", "{"), (b"\xef\xbb\xbf#", "{")])
def test_a_value_is_read_by_the_format_that_its_beginning_belongs_to(value: bytes, key: str) -> None:
    assert by_first_byte().read(None, value, ()).key == key


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "the value is empty"),
        (b"\xef\xbb", r"begins with byte 0xef, which begins no record; expected one of two \(records.format = \"auto\"\)"),
        (b"\x1f\x8b", "begins with byte 0x1f, which begins no record: it looks like gzip; expected"),
    ],
)  # fmt: skip
def test_a_value_that_begins_no_record_is_malformed(value: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message) as raised:
        by_first_byte().read(None, value, ())
    assert raised.value.reason is Reason.MALFORMED
