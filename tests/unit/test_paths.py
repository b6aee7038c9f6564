"""The language of paths: what each form means, and what is refused with which words."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.records.formats.paths import MOST_STEPS, Path, PathError, Source, Template, parse, parse_template


@pytest.mark.parametrize(
    ("text", "steps", "last_name"),
    [
        ("id", ("id",), "id"),
        ("payload.vector", ("payload", "vector"), "vector"),
        ("data[0].embedding", ("data", 0, "embedding"), "embedding"),
        ("tags[12]", ("tags", 12), "tags"),
        ("grid[1][2]", ("grid", 1, 2), "grid"),
        ('"doc.id"', ("doc.id",), "doc.id"),
        ('a."b.c"[0]."d[e"', ("a", "b.c", 0, "d[e"), "d[e"),
        ('"$ref"', ("$ref",), "$ref"),
        ("two words.ключ", ("two words", "ключ"), "ключ"),
    ],
)
def test_a_path_into_the_value_is_its_names_and_places(text: str, steps: tuple[str | int, ...], last_name: str) -> None:
    path = parse(text)
    assert path == Path(text, Source.VALUE, steps)
    assert path.last_name == last_name


@pytest.mark.parametrize(
    ("text", "source", "name", "last_name"),
    [
        ("$kafka.key", Source.KAFKA_KEY, "", "key"),
        ("$header.doc-id", Source.HEADER, "doc-id", "doc-id"),
        ("$header.a.b", Source.HEADER, "a.b", "a.b"),
        ("$attribute.subject", Source.ATTRIBUTE, "subject", "subject"),
    ],
)
def test_a_path_may_begin_outside_of_the_value(text: str, source: Source, name: str, last_name: str) -> None:
    path = parse(text)
    assert (path.source, path.steps, path.name, path.last_name) == (source, (), name, last_name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a name is expected at character 1"),
        (".a", "a name is expected at character 1"),
        ("a..b", "a name is expected at character 3"),
        ("a.", "a name is expected at character 3"),
        ("[0]", "a name is expected at character 1"),
        ("a[x]", "a dot or .n. is expected at character 2"),
        ("a[0]b", "a dot or .n. is expected at character 5"),
        ("a[-1]", "a dot or .n. is expected"),
        ('"a', "a name is expected"),
        ('""', "a name is expected"),
        ('a"b"', "a dot or .n. is expected"),
        ("$kafka", "what begins with \\$"),
        ("$key", "what begins with \\$"),
        ("$header.", "needs a name behind it"),
        ("a" + ".a" * MOST_STEPS, "17 steps; allowed are 16"),
    ],
)
def test_what_is_no_path_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(PathError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("id", (parse("id"),)),
        ('"a{b"', (parse('"a{b"'),)),
        ("{tenant}/{id}", (parse("tenant"), "/", parse("id"))),
        ("doc-{a.b[0]}", ("doc-", parse("a.b[0]"))),
        ("{$kafka.key}/{index}", (parse("$kafka.key"), "/", parse("index"))),
        ('{"a}b"}', (parse('"a}b"'),)),
        ("{{{a}}}", ("{", parse("a"), "}")),
    ],
)
def test_a_template_is_text_and_paths(text: str, parts: tuple[str | Path, ...]) -> None:
    assert parse_template(text) == Template(text, parts)
    assert parse_template(text).paths == tuple(part for part in parts if isinstance(part, Path))


@pytest.mark.parametrize("text", ["{", "{a", "a}{b}", "{a{b}}", "{}"])
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(PathError):
        parse_template(text)


NAMES = st.text(min_size=1).filter(lambda name: not any(c in '"\\' or ord(c) < 0x20 for c in name))


@given(names=st.lists(st.tuples(NAMES, st.lists(st.integers(0, 999), max_size=1)), min_size=1, max_size=8))
def test_any_names_can_be_quoted(names: list[tuple[str, list[int]]]) -> None:
    text = ".".join(f'"{name}"' + "".join(f"[{place}]" for place in places) for name, places in names)
    assert parse(text).steps == tuple(step for name, places in names for step in (name, *places))


@given(st.text(alphabet='ab.[]0{}"$\\ ', max_size=12))
def test_any_text_is_a_template_or_a_path_error(text: str) -> None:
    with suppress(PathError):
        assert parse_template(text).paths or "{" in text or "}" in text
