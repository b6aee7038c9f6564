"""The parts of a value, cut out at once and step by step: the same in both ways, and each byte looked at once for each step."""

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import Reason, RecordError
from worker.records.formats.fields import FieldReader
from worker.records.formats.json import JsonFields
from worker.records.formats.leaves import Leaves
from worker.records.formats.msgpack import MsgpackFields
from worker.records.formats.paths import Step, parse

ENCODINGS: Final = [
    pytest.param(JsonFields("strict"), msgspec.json, id="JSON"),
    pytest.param(MsgpackFields("strict"), msgspec.msgpack, id="MessagePack"),
]


def parts(fields: FieldReader, body: bytes, paths: list[tuple[Step, ...]]) -> list[bytes]:
    """Return the parts at paths, which both ways must cut alike."""
    leaves = Leaves(fields, paths)
    found, slowly = leaves.read(body), leaves._step_by_step(body)
    assert [bytes(part) for part in found] == [bytes(part) for part in slowly]
    return [bytes(found[leaves.slot(path)]) for path in paths]


@pytest.mark.parametrize(("fields", "module"), ENCODINGS)
def test_parts_are_where_their_paths_lead(fields: FieldReader, module: Any) -> None:
    value = {"a": {"b": 1, "c": "x"}, "d": [{"e": 5}, 7], "m": {"x": [1]}, "a.b": 3}
    paths = ["a.b", "a.c", "d[0].e", "d[1]", "m", "m.x", "m.x[0]", "q.w", '"a.b"', "a.b.c", "d.e", "a[0]", "d[9]"]
    expected = [1, "x", 5, 7, {"x": [1]}, [1], 1, None, 3, None, None, None, None]
    found = parts(fields, module.encode(value), [parse(path).steps for path in paths])
    assert [module.decode(part) if part else None for part in found] == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a":{"b":1},"a":{"c":2}}', b""),
        (b'{"a":5,"a":{"b":1}}', b"1"),
        (b'{"a":{"b":1},"a":5}', b""),
        (b'{"a":{"b":1},"a":null}', b""),
        (b'{"a":{"b":1,"b":2}}', b"2"),
        (b'{"x":"\\ud800","a":{"b":1}}', b"1"),
    ],
)
def test_of_a_name_that_is_there_twice_the_last_value_counts(body: bytes, expected: bytes) -> None:
    assert parts(JsonFields("strict"), body, [("a", "b")]) == [expected]


@pytest.mark.parametrize("body", [b"[]", b'{"a":', b'{"a":1}}', b"5", b'{"a":{"b":01}}', b'{"a":' + b"[" * 100_000])
def test_a_value_that_is_not_whole_is_refused(body: bytes) -> None:
    with pytest.raises(RecordError) as raised:
        Leaves(JsonFields("strict"), [("a", "b")]).read(body)
    assert raised.value.reason is Reason.MALFORMED


def test_names_that_are_no_strings_are_ignored_at_every_depth() -> None:
    inner = b"\x83\x01\x02\xa1b\x07\xc0\xc0"
    assert parts(MsgpackFields("strict"), b"\x82\x05\x06\xa1a" + inner, [("a", "b")]) == [b"\x07"]


names: Final = st.sampled_from(["a", "b", "c"])
steps: Final = names | st.integers(0, 2)
values: Final = st.recursive(
    st.none() | st.integers(0, 9) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(names, values),
    st.lists(st.tuples(names, steps, steps) | st.tuples(names, steps), min_size=1, max_size=5),
)
def test_what_is_found_is_what_a_person_finds(value: dict[str, Any], paths: list[tuple[Step, ...]]) -> None:
    def at(path: tuple[Step, ...]) -> tuple[bool, Any]:
        found: Any = value
        for step in path:
            is_place = isinstance(found, list) and isinstance(step, int) and step < len(found)
            if not is_place and not (isinstance(found, dict) and step in found):
                return False, None
            found = found[step]
        return True, found

    fields: FieldReader
    for fields, module in ((JsonFields("strict"), msgspec.json), (MsgpackFields("strict"), msgspec.msgpack)):
        for part, path in zip(parts(fields, module.encode(value), paths), paths, strict=True):
            assert at(path) == (bool(part), module.decode(part) if part else None)
