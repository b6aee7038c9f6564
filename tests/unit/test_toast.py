"""Debezium's placeholders of unchanged columns, in each form that a type of column gives them."""

import base64
import json
from typing import Any, Final

import pytest

from worker.records.formats.toast import (
    TOAST,
    are_unchanged_bytes,
    are_unchanged_numbers,
    has_unchanged,
    is_unchanged,
    unchanged,
)

CODES: Final = [*TOAST.encode()]
UUID: Final = "b68a35a7-17ad-35b3-af2a-ae46edb4545a"  # as Java's UUID.nameUUIDFromBytes makes it
TEXTS: Final = [
    TOAST,
    "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
    "5f5f646562657a69756d5f756e617661696c61626c655f76616c7565",
    UUID,
    '{"__debezium_unavailable_value":"__debezium_unavailable_value"}',
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_placeholder_is_known_as_a_text_in_a_list_and_in_a_row(text: str) -> None:
    assert is_unchanged(text)
    assert is_unchanged([text])
    assert has_unchanged(b'{"a":1,"b":' + json.dumps(text).encode() + b"}")


@pytest.mark.parametrize(
    "numbers", [CODES, [float(code) for code in CODES], [*map(str, CODES)], [f"{code}.0" for code in CODES]]
)
def test_the_codes_of_its_characters_are_known(numbers: list[Any]) -> None:
    assert is_unchanged(numbers)


def test_bytes_and_numbers_are_known() -> None:
    assert are_unchanged_bytes(TOAST.encode())
    assert are_unchanged_bytes(base64.b64decode(TEXTS[2]))
    assert are_unchanged_numbers(map(float, CODES))
    assert has_unchanged(b'{"v":[' + ",".join(map(str, CODES)).encode() + b"]}")


@pytest.mark.parametrize(
    "value", ["", TOAST[1:], f"{TOAST} ", "x" * 100_000, None, 5, [], [None], [[TOAST]], [TOAST, TOAST], CODES[1:]]
)
def test_all_else_is_a_value(value: object) -> None:
    assert not is_unchanged(value)


def test_the_error_says_what_postgresql_does_and_what_helps() -> None:
    assert "vec is an unchanged TOAST column" in unchanged("vec").message
    assert "REPLICA IDENTITY FULL" in unchanged("vec").message
