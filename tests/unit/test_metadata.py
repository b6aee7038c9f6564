"""The metadata member of a fragment, the limits, and numbers as text; the table of limits is in test_decode.py."""

import pytest

from tests.unit.samples import TARGET
from worker.errors import Reason, RecordError
from worker.records.formats.contract import AnyMetadata, LooseMetadata, Metadata
from worker.records.metadata import MetadataWriter, scalar_text, shown, stringified


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, b""),
        ({}, b',"metadata":{}'),
        ({"a": ["b", ""]}, b',"metadata":{"a":["b",""]}'),
        (lambda: None, b""),
        (lambda: {"a": "b"}, b',"metadata":{"a":"b"}'),
    ],
    ids=["none", "empty", "list", "unread none", "unread"],
)
def test_metadata_becomes_a_member_of_the_fragment(metadata: AnyMetadata, expected: bytes) -> None:
    assert MetadataWriter(TARGET, "strict").member(metadata) == expected


@pytest.mark.parametrize("is_unread", [False, True])
def test_the_limits_hold_for_metadata_that_is_read_late_too(is_unread: bool) -> None:
    metadata: Metadata = {"a": "x" * 2048}
    with pytest.raises(RecordError, match="filterable metadata has 2049 bytes") as raised:
        MetadataWriter(TARGET, "strict").member((lambda: metadata) if is_unread else metadata)
    assert raised.value.reason is Reason.METADATA


def test_numbers_and_booleans_become_text_and_nulls_go() -> None:
    read = stringified({"n": 1.5, "b": True, "gone": None, "l": [1, None, "x"]})
    assert read == {"n": "1.5", "b": "true", "l": ["1", "x"]}
    loose: LooseMetadata = {"n": 1}
    assert MetadataWriter(TARGET, "stringify").member(loose) == b',"metadata":{"n":"1"}'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_has_no_text_for_is_refused(number: float) -> None:
    with pytest.raises(RecordError, match=f"metadata 'n' is {number!r}, which JSON cannot express"):
        scalar_text("n", number)


def test_a_name_is_shown_cut() -> None:
    assert (shown("a"), len(shown("k" * 5000))) == ("'a'", 103)
