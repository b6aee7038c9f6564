"""Vectors in strings: base64 in every dress, lists as text, and what is neither."""

import base64
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import Reason, RecordError
from worker.records.formats.vector_text import is_list, numbers, packed


@given(st.binary(max_size=400), st.booleans(), st.booleans(), st.sampled_from(["", "\n", "\r\n"]))
def test_base64_is_read_in_every_dress(data: bytes, is_url: bool, is_padded: bool, line_break: str) -> None:
    text = (base64.urlsafe_b64encode if is_url else base64.b64encode)(data).decode()
    text = text if is_padded else text.rstrip("=")
    if line_break:
        text = line_break.join(textwrap.wrap(text, 76)) + line_break
    assert not is_list(text)
    assert packed(text, "vec", "") == data


@pytest.mark.parametrize(
    "text",
    ["A", "AAAAA", "AA=", "AA===", "AAAA=", "=", "AA==AA==", "AA+_", "AA AA", "ÀÀÀÀ", "A\u0000AA", "{0.1}", "0.5"],
)
def test_what_is_no_base64_is_malformed(text: str) -> None:
    with pytest.raises(RecordError, match="vec is a string that is not base64; allowed is x") as raised:
        packed(text, "vec", "allowed is x")
    assert raised.value.reason is Reason.MALFORMED


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2), st.booleans())
def test_a_list_as_text_is_its_numbers(vector: list[float], has_brackets: bool) -> None:
    text = str(vector) if has_brackets else str(vector)[1:-1]
    assert is_list(text)
    found = numbers(text, "vec")
    assert (found.length, found.read()) == (len(vector), vector)


@pytest.mark.parametrize(
    "text", ["[1,2", "1,2]", "[1,,2]", "[1 2]", "[1,nan]", "[1,NaN]", "[1,Infinity]", ",", "1,2;3", "[1],[2]"]
)
def test_what_is_no_list_of_numbers_is_malformed(text: str) -> None:
    assert is_list(text)
    with pytest.raises(RecordError, match="vec is text that is no list of numbers") as raised:
        numbers(text, "vec")
    assert raised.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("text", ['["1",2]', "[1,null]", "[true,1]", "[[1,2]]", "[{},1]"])
def test_an_element_that_is_no_number_is_malformed(text: str) -> None:
    with pytest.raises(RecordError, match="of the text in vec is no number"):
        numbers(text, "vec")


def test_a_number_beyond_float64_is_not_finite_once_it_is_read() -> None:
    found = numbers("[1,1e999]", "vec")
    with pytest.raises(RecordError) as raised:
        found.read()
    assert raised.value.reason is Reason.NOT_FINITE
