"""What [records.fields] may say, and how each mistake is named."""

from collections.abc import Mapping, Sequence

import pytest

from worker.records.formats.paths import Path, PathError, parse
from worker.records.formats.shape import FIXED, MOST_METADATA, Shape, shape_of


def test_the_defaults_are_the_services_own_shape() -> None:
    assert shape_of("", "data.float32", "metadata", "") == FIXED == Shape()


def test_a_list_of_paths_is_named_by_their_last_names() -> None:
    listed = shape_of("", "v", ["a.title", "$header.tenant", "$kafka.key", "tags[0]"], "").metadata
    assert listed is not None
    assert not isinstance(listed, Path)
    assert [name for name, _ in listed] == ["title", "tenant", "key", "tags"]


@pytest.mark.parametrize(
    ("key", "vector", "metadata", "delete", "words"),
    [
        ("a..b", "v", "", "", r'key = "a..b": a name is expected'),
        ("{a", "v", "", "", r"key = .* has no other"),
        ("", "$header.v", "", "", r"vector = .*: it must be in the value"),
        ("", "[0]", "", "", r"vector = .*: a name is expected"),
        ("", "v", "$header.m", "", r"metadata = .*: it must be in the value"),
        ("", "v", ["a.x", "b.x"], "", r"metadata = .*: two paths have the name x; write it as a table"),
        ("", "v", {"a": "b."}, "", r"metadata = .*: a name is expected"),
        ("", "v", [f"f{n}" for n in range(MOST_METADATA + 1)], "", r"it has 101 paths; allowed are 100"),
        ("", "v", "", "$nothing", r"delete = .*: what begins with \$ is"),
        ("$kafka.value", "v", "", "", r"key = .*: \$kafka.value is for the vector alone"),
        ("", "v", "", "$kafka.value", r"delete = .*: \$kafka.value is for the vector alone"),
        (
            "id",
            "$kafka.value",
            "",
            "",
            r'key = "id": id is not around the value, .* allowed are \$kafka.key and \$header',
        ),
        ("{$kafka.key}/{id}", "$kafka.value", "", "", r"key = .*: id is not around the value"),
        ("$attribute.id", "$kafka.value", "", "", r"key = .*: \$attribute.id is not around the value"),
        ("", "$kafka.value", "title", "", r'metadata = "title": title is not around the value'),
        ("", "$kafka.value", "$header.m", "", r"metadata = .*: write it as a list of paths, or as a table"),
        ("", "$kafka.value", ["title"], "", r"metadata = .*: title is not around the value"),
        (
            "",
            "$kafka.value",
            ["$header.x", "$kafka.value"],
            "",
            r"metadata = .*: \$kafka.value is for the vector alone",
        ),
        ("", "$kafka.value", {"t": "title"}, "", r"metadata = .*: title is not around the value"),
        ("", "$kafka.value", "", "__op", r'delete = "__op": __op is not around the value'),
    ],
)
def test_what_is_no_path_is_named_with_its_field(
    key: str, vector: str, metadata: str | Sequence[str] | Mapping[str, str], delete: str, words: str
) -> None:
    with pytest.raises(PathError, match=words):
        shape_of(key, vector, metadata, delete)


def test_the_paths_of_a_shape_are_all_that_it_reads() -> None:
    shape = shape_of("{a}/{b}", "v", {"x": "c", "y": "d"}, "e")
    assert shape.paths == tuple(parse(text) for text in ("a", "b", "v", "c", "d", "e"))
    assert [path.text for path in FIXED.paths] == ["key", "data.float32", "metadata"]
    assert [path.text for path in shape_of("", "v", "", "").paths] == ["key", "v"]


def test_a_vector_alone_leaves_nothing_else_in_the_value() -> None:
    shape = shape_of("{$header.t}/{$kafka.key}", "$kafka.value", {"x": "$header.x"}, "$header.op")
    assert [path.text for path in shape.paths] == ["$header.t", "$kafka.key", "$kafka.value", "$header.x", "$header.op"]
    default = shape_of("", "$kafka.value", "metadata", "")  # the map that records have by default is in the value
    assert (default.is_vector_alone, default.metadata) == (True, None)
    assert [path.text for path in default.paths] == ["$kafka.value"]
    assert not FIXED.is_vector_alone
