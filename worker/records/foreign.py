"""What a map is that is no record of the expected shape, by its fields, and which settings would read it. Only for messages.

A map is cut into its fields, which stay bytes. Of nested maps a few levels are cut likewise, so the cost is that of reading
the value a few times.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from worker.records.first_bytes import look_of_text
from worker.records.formats.framing import without_prefix
from worker.records.formats.json import JsonFields
from worker.records.formats.msgpack import MsgpackFields
from worker.records.formats.values import BYTE_ORDER_MARK, UNREADABLE, Kind, Raw
from worker.records.formats.vector_text import TOAST, TOAST_NUMBERS
from worker.words import clean

_NOTHING: Final = msgspec.Raw(b"")
_MOST_SHOWN: Final = 8  # fields in a message
_NAME_CHARACTERS: Final = 40
_MOST_MEMBERS: Final = 64  # of each map, in which a vector is searched for
_DEEPEST: Final = 4
_FEWEST: Final = 2  # numbers of what may be a vector
_TEXT_BYTES: Final = 40  # a shorter text is no vector
_UNAVAILABLE: Final = TOAST.encode()
_UNAVAILABLE_NUMBERS: Final = ",".join(map(str, TOAST_NUMBERS)).encode()  # as Kafka Connect writes an array
_KEYS: Final = (
    "key", "id", "_id", "uuid", "doc_id", "docId", "document_id", "documentId", "chunk_id", "chunkId", "vector_id", "pk",
)  # fmt: skip
_VECTORS: Final = ("float32", "embedding", "vector", "values", "embeddings", "vectors", "vec", "emb", "dense_vector")

Steps = tuple[str | int, ...]


class Encoding(NamedTuple):
    """Cuts values of one encoding. What it calls raises what msgspec raises."""

    members: Callable[[Any], Mapping[str, Raw]]
    elements: Callable[[Any], Sequence[Raw]]
    text: Callable[[Any], str]
    kinds: tuple[Kind, ...]

    def kind(self, raw: Raw) -> Kind:
        """Return what a value is."""
        view = memoryview(raw)
        return self.kinds[view[0]] if view else Kind.NOTHING


_JSON: Final = Encoding(
    msgspec.json.Decoder(dict[str, Raw]).decode,
    msgspec.json.Decoder(list[Raw]).decode,
    msgspec.json.Decoder(str).decode,
    JsonFields.kind_of_byte,
)
_MSGPACK: Final = Encoding(
    msgspec.msgpack.Decoder(dict[str, Raw]).decode,
    msgspec.msgpack.Decoder(list[Raw]).decode,
    msgspec.msgpack.Decoder(str).decode,
    MsgpackFields.kind_of_byte,
)


class Found(NamedTuple):
    """A vector in a value: where it is, in which form, and the maps around it, the outermost first."""

    steps: Steps
    form: str
    maps: tuple[Mapping[str, Raw], ...]
    is_many: bool = False  # it is in a list of records, which `steps` leads to; then `inner` leads on
    inner: Steps = ()


class Fields(NamedTuple):
    """A value that is a map: its encoding, and its members."""

    encoding: Encoding
    members: Mapping[str, Raw]


def fields_of(value: bytes) -> Fields | None:
    """Return the fields of a value, None where it is no map of names."""
    body = without_prefix(value).removeprefix(BYTE_ORDER_MARK)
    encoding = _MSGPACK if body and MsgpackFields.kind_of_byte[body[0]] is Kind.MAP else _JSON
    try:
        return Fields(encoding, encoding.members(body))
    except UNREADABLE:
        return None


def names_shown(members: Mapping[str, Raw]) -> str:
    """Return the names of a map for a message."""
    if not members:
        return "it has no fields"
    shown = [clean(name, _NAME_CHARACTERS) or '""' for name in islice(members, _MOST_SHOWN)]
    more = len(members) - len(shown)
    return f"its fields are {', '.join(shown)}" + (f" and {more} more" if more else "")


def path_of(steps: Steps) -> str:
    """Return a path as `records.fields` has it."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = clean(step, _NAME_CHARACTERS)
            plain = name.replace("_", "").replace("-", "").replace("@", "").isalnum()
            text += ("." if text else "") + (name if plain else f'"{name}"')
    return text


class Foreign:
    """Says of maps what they are, for one route: the count of numbers in its vectors, and where its settings look for them."""

    def __init__(self, dimension: int, vector_path: str, envelope: str, *, is_many: bool) -> None:
        self._dimension = dimension
        self._vector_path = vector_path
        self._envelope = envelope
        self._is_many = is_many

    def words(self, fields: Fields) -> str:
        """Return what the value is and what would read it, "" where its shape is the expected one."""
        encoding, members = fields
        said = self._enveloped(encoding, members)
        if said is None:
            said = self._by_its_parts(encoding, members)
        return said and f"{names_shown(members)}; {said}"

    def text_words(self, fields: Fields) -> str:
        """Return what the text is that should be a vector in base64."""
        text = _at(fields.encoding, fields.members, self._vector_path)
        look = look_of_text(text) if text else ""
        return look and f"{self._vector_path} {look}"

    def key_words(self, fields: Fields) -> str:
        """Return likewise for a record that has no key."""
        found = self._find(fields.encoding, fields.members)
        maps = (fields.members,) if found is None else found.maps
        path, is_number = _key_in(fields.encoding, maps, () if found is None else found.steps)
        if path in ("", "key"):
            return names_shown(fields.members)
        return f"{names_shown(fields.members)}; set {_key_setting(path, is_number=is_number)}"

    # -- envelopes

    def _enveloped(self, encoding: Encoding, members: Mapping[str, Raw]) -> str | None:
        """Return what an envelope is, "" if its setting is in force, None if it is none."""
        envelope, row, note = _envelope(encoding, members)
        if envelope is None:
            return None
        name, setting = envelope
        if setting == self._envelope:
            return ""
        within = "" if row is None else self._settings_for(encoding, row)
        return f'it looks like {name}: set records.envelope = "{setting}"{within}{note and "; "}{note}'

    def _settings_for(self, encoding: Encoding, row: Raw) -> str:
        """Return the settings for the record within an envelope, where its shape is another too."""
        inner = _members(encoding, row)
        found = None if inner is None else self._find(encoding, inner)
        if found is None or found.is_many or path_of(found.steps) == self._vector_path:
            return ""
        return f" and {self._settings(encoding, found)}"

    # -- other shapes

    def _by_its_parts(self, encoding: Encoding, members: Mapping[str, Raw]) -> str:
        found = self._find(encoding, members)
        if found is None:
            return self._without_vector(encoding, members)
        if found.is_many:
            return self._many(encoding, found)
        path = path_of(found.steps)
        if found.form in _FORMS_NOT_READ:
            return f"{path} looks like {_FORMS_NOT_READ[found.form]}"
        if path == self._vector_path:
            return ""
        return f"{found.form} is in {path}: set {self._settings(encoding, found)}"

    def _without_vector(self, encoding: Encoding, members: Mapping[str, Raw]) -> str:
        for name, raw in islice(members.items(), _MOST_MEMBERS):
            if encoding.kind(raw) is Kind.STRING and _text(encoding, raw)[:1] in ("{", "["):
                return f"{path_of((name,))} is a string that has JSON in it: publish it as a map, not as text"
        for name in ("__deleted", "__op"):
            if name in members:
                return f'it looks like an unwrapped row of Debezium: set records.fields.delete = "{name}"'
        return "there is no list of numbers in it"

    def _many(self, encoding: Encoding, found: Found) -> str:
        path = path_of(found.steps)
        settings = [] if self._is_many else ['records.many = "split"']
        settings.append(_setting("records", path))
        element = found._replace(steps=found.inner)
        if path_of(found.inner) != self._vector_path:
            settings.append(self._settings(encoding, element))
            if "index" in found.maps[-1] and not _key_in(encoding, found.maps, found.inner)[0]:
                settings.append(_key_setting("{$kafka.key}/{index}", is_number=True))
        return f"{path} is a list of records: set {', '.join(settings)}; or publish one record in a message"

    def _settings(self, encoding: Encoding, found: Found) -> str:
        settings = [_setting("vector", path_of(found.steps))]
        path, is_number = _key_in(encoding, found.maps, found.steps)
        if path and path != "key":
            settings.append(_key_setting(path, is_number=is_number))
        return ", ".join(settings)

    # -- the search

    def _find(self, encoding: Encoding, members: Mapping[str, Raw]) -> Found | None:
        """Return the vector of a value, the shallowest; a list of as many numbers as the index has dimensions comes first."""
        best: tuple[tuple[int, ...], Found] | None = None
        for found, length in self._vectors(encoding, members):
            name = next((step for step in reversed(found.steps + found.inner) if isinstance(step, str)), "")
            rank = (length != self._dimension, name not in _VECTORS, len(found.steps) + len(found.inner))
            if best is None or rank < best[0]:
                best = (rank, found)
        return best and best[1]

    def _vectors(self, encoding: Encoding, top: Mapping[str, Raw]) -> Iterator[tuple[Found, int]]:
        """Yield what may be a vector, with the count of its numbers, 0 where that is not known."""
        waiting: list[tuple[Steps, tuple[Mapping[str, Raw], ...]]] = [((), (top,))]
        while waiting:
            steps, maps = waiting.pop(0)
            for name, raw in islice(maps[-1].items(), _MOST_MEMBERS):
                here = (*steps, name)
                kind = encoding.kind(raw)
                if kind is Kind.MAP and len(here) < _DEEPEST:
                    inner = _members(encoding, raw) or {}
                    if form := _typed_array(inner):
                        yield Found(here, form, maps), self._dimension
                    else:
                        waiting.append((here, (*maps, inner)))
                elif kind is Kind.LIST:
                    yield from self._in_list(encoding, here, maps, encoding.elements(raw))
                elif kind in (Kind.BINARY, Kind.STRING) and (form := self._packed(encoding, name, raw, kind)):
                    yield Found(here, form, maps), self._dimension

    def _in_list(
        self, encoding: Encoding, here: Steps, maps: tuple[Mapping[str, Raw], ...], elements: Sequence[Raw]
    ) -> Iterator[tuple[Found, int]]:
        kinds = [encoding.kind(element) for element in elements[:_FEWEST]]
        first = kinds[0] if kinds else Kind.NOTHING
        if Kind.NUMBER in kinds and len(elements) >= _FEWEST:
            yield Found(here, f"a list of {len(elements)} numbers", maps), len(elements)
        elif first is Kind.LIST:
            inner = encoding.elements(elements[0])
            if len(inner) >= _FEWEST and encoding.kind(inner[0]) is Kind.NUMBER:
                form = f"a list of {len(inner)} numbers" if len(elements) == 1 else "lists"
                yield Found((*here, 0), form, maps), len(inner)
        elif first is Kind.MAP:
            record = _members(encoding, elements[0]) or {}
            if (found := self._find_flat(encoding, record)) is not None:
                yield Found(here, found.form, found.maps, is_many=True, inner=found.steps), self._dimension

    def _find_flat(self, encoding: Encoding, record: Mapping[str, Raw]) -> Found | None:
        """Return the vector of an element of a list, which is not in a list again."""
        found = self._find(encoding, record) if not _has_lists_of_maps(encoding, record) else None
        return None if found is None or found.is_many else found

    def _packed(self, encoding: Encoding, name: str, raw: Raw, kind: Kind) -> str:
        """Return what packed numbers are called, "" if it is something else."""
        sizes = {4 * self._dimension: "float32", 8 * self._dimension: "float64", 2 * self._dimension: "float16"}
        size = len(memoryview(raw))
        if kind is Kind.BINARY:
            floats = next((sizes[size - header] for header in (2, 3, 5) if size - header in sizes), "")
            return f"{floats} as bytes" if floats else ""
        if size < min(_TEXT_BYTES, 2 * self._dimension):
            return ""
        text = _text(encoding, raw)
        if text[:1] == "[" and text.count(",") == self._dimension - 1:
            return "a vector as text"
        bytes_of_base64 = len(text.rstrip("=")) * 3 // 4
        return f"{sizes[bytes_of_base64]} in base64" if bytes_of_base64 in sizes and name in _VECTORS else ""


_FORMS_NOT_READ: Final = {
    "typed array": "a typed array as JSON.stringify writes it: publish Array.from(it)",
    "buffer": "a Buffer as JSON.stringify writes it: publish a list of numbers, or base64",
    "lists": "a list of several vectors, which have no keys: publish one record for each",
}


def _envelope(encoding: Encoding, members: Mapping[str, Raw]) -> tuple[tuple[str, str] | None, Raw | None, str]:
    """Return what an envelope is called and its setting, the record in it, and what else is to be said."""
    if "schema" in members and "payload" in members:
        payload = members["payload"]
        inner = _members(encoding, payload) or {}
        envelope, row, note = _envelope(encoding, inner)
        return (envelope, row, note) if envelope else (("a record of Kafka Connect", "connect"), payload, "")
    if "op" in members and ("after" in members or "before" in members):
        return ("a change of Debezium", "debezium"), members.get("after"), _debezium_note(encoding, members)
    if "specversion" in members and ("data" in members or "data_base64" in members):
        return ("a CloudEvent", "cloudevents"), members.get("data"), ""
    return None, None, ""


def _debezium_note(encoding: Encoding, members: Mapping[str, Raw]) -> str:
    if encoding.kind(members["op"]) is Kind.STRING and _text(encoding, members["op"]) == "t":
        return "it is a truncate of the table, which deletes no vectors: delete them by hand"
    row = members.get("after")
    if row is not None and any(words in bytes(row) for words in (_UNAVAILABLE, _UNAVAILABLE_NUMBERS)):
        return (
            "a column has Debezium's placeholder of an unchanged TOAST value, so the row is not whole: "
            "set REPLICA IDENTITY FULL for the table"
        )
    return ""


def _typed_array(members: Mapping[str, Raw]) -> str:
    names = list(islice(members, _FEWEST + 1))
    if names[:_FEWEST] == ["0", "1"]:
        return "typed array"
    if names == ["type", "data"] and b"Buffer" in bytes(members["type"]):
        return "buffer"
    return ""


def _key_in(encoding: Encoding, maps: tuple[Mapping[str, Raw], ...], steps: Steps) -> tuple[str, bool]:
    """Return the path of what is likely the key, the nearest to the vector, and whether it is a number; "" if there is none."""
    for depth in range(len(maps) - 1, -1, -1):
        others = (name for name in islice(maps[depth], _MOST_MEMBERS) if name.lower().endswith("id"))
        for name in (*_KEYS, *others):
            kind = encoding.kind(maps[depth].get(name, _NOTHING))
            if kind in (Kind.STRING, Kind.NUMBER):
                return path_of((*steps[:depth], name)), kind is Kind.NUMBER
    return "", False


def _setting(name: str, path: str) -> str:
    """Return a setting of records.fields as TOML has it."""
    quote = "'" if '"' in path else '"'
    return f"records.fields.{name} = {quote}{path}{quote}"


def _key_setting(path: str, *, is_number: bool) -> str:
    setting = _setting("key", path)
    return f'{setting}, records.key_values = "stringify"' if is_number else setting


def _has_lists_of_maps(encoding: Encoding, record: Mapping[str, Raw]) -> bool:
    for raw in islice(record.values(), _MOST_MEMBERS):
        if encoding.kind(raw) is Kind.LIST:
            elements = encoding.elements(raw)
            if elements and encoding.kind(elements[0]) is Kind.MAP:
                return True
    return False


def _members(encoding: Encoding, raw: Raw) -> Mapping[str, Raw] | None:
    if encoding.kind(raw) is not Kind.MAP:
        return None
    try:
        return encoding.members(raw)
    except UNREADABLE:
        return None


def _at(encoding: Encoding, members: Mapping[str, Raw], path: str) -> str:
    """Return the string at a path of plain names, "" if there is none."""
    within: Mapping[str, Raw] | None = members
    *names, last = path.split(".")
    for name in names:
        within = _members(encoding, (within or {}).get(name, _NOTHING))
    raw = (within or {}).get(last, _NOTHING)
    return _text(encoding, raw) if encoding.kind(raw) is Kind.STRING else ""


def _text(encoding: Encoding, raw: Raw) -> str:
    try:
        return encoding.text(raw)
    except UNREADABLE:
        return ""
