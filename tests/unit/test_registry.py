"""A schema registry's prefix: what follows goes to the inner format, with the key and the headers."""

import pytest

from worker.errors import Reason, RecordError
from worker.records.formats.contract import Headers, Record
from worker.records.formats.registry import RegistryFormat

PREFIX = b"\x00\x00\x00\x00\x2a"
MARK = b"\xef\xbb\xbf"


class Inner:
    """Keeps what it is asked; refuses where that is wanted."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.asked: list[tuple[bytes | None, bytes, Headers]] = []
        self._refuses = refuses

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        self.asked.append((key, value, headers))
        if self._refuses:
            raise RecordError(Reason.MALFORMED, "inner")
        return Record("a")


@pytest.mark.parametrize("between", [b"", MARK], ids=["nothing", "mark"])
def test_the_inner_format_reads_what_follows_the_prefix(between: bytes) -> None:
    inner = Inner()
    headers = (("h", b"x"),)
    assert RegistryFormat(inner).read(b"k", PREFIX + between + b" {}", headers).key == "a"
    assert inner.asked == [(b"k", b" {}", headers)]


@pytest.mark.parametrize("body", [b"", b"\x02abc", b" [1", MARK + MARK + b"{}"])
def test_what_cannot_be_json_does_not_reach_the_inner_format(body: bytes) -> None:
    inner = Inner()
    with pytest.raises(RecordError, match=r"schema id 42") as raised:
        RegistryFormat(inner).read(None, PREFIX + body, ())
    assert (raised.value.reason, inner.asked) == (Reason.UNSUPPORTED_ENCODING, [])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a"', Reason.MALFORMED),
        (b"{ }", Reason.MALFORMED),
        (b"{", Reason.MALFORMED),
        (b"{abc", Reason.UNSUPPORTED_ENCODING),
        (b" {\x00", Reason.UNSUPPORTED_ENCODING),
        (b'{"' + b"x" * 59 + b"}\x10\x00\x00\x80?", Reason.UNSUPPORTED_ENCODING),
        (b'\n{"a":\x08\x00\x00\x80?', Reason.UNSUPPORTED_ENCODING),
        (b" {}" + b"x" * 14 + b"\x06", Reason.UNSUPPORTED_ENCODING),
    ],
)
def test_avro_that_begins_with_a_bracket_is_recognised_once_it_is_no_json(body: bytes, reason: Reason) -> None:
    with pytest.raises(RecordError) as raised:
        RegistryFormat(Inner(refuses=True)).read(None, PREFIX + body, ())
    assert raised.value.reason is reason
