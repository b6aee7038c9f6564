"""What a value that is no record looks like."""

import pytest

from worker.records.formats.hints import constant_at, resembles


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b'{\x00"\x00', "UTF-16"),
        (b"\x00\x00\x00{\x00\x00\x00\n", "UTF-32"),
        (b"[[", "a list"),
        (b"\x80\x05\x95", "a Python pickle"),
        (b"{}", ""),
        (b"", ""),
    ],
)
def test_a_value_is_named_by_its_first_bytes(value: bytes, expected: str) -> None:
    assert resembles(value) == expected


@pytest.mark.parametrize(
    ("body", "place", "expected"),
    [(b"[NaN]", 1, "NaN"), (b"[-Infinity]", 2, "-Infinity"), (b"[nul]", 1, ""), (b"[NaN]", 4, "")],
)
def test_a_constant_is_named_only_where_the_error_is(body: bytes, place: int, expected: str) -> None:
    words = constant_at(body, ValueError(f"JSON is malformed: invalid character (byte {place})"))
    assert words.partition("; ")[0] == (f", which is {expected}" if expected else "")


def test_an_error_without_a_place_names_nothing() -> None:
    assert constant_at(b"NaN", ValueError("truncated")) == ""
