"""What a map is that is no record of the expected shape, by its fields, and which settings would read it. Only for messages.

A map is cut into its fields, which stay bytes. Of nested maps a few levels are cut likewise, so the cost is that of reading
the value a few times.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple, get_args

from worker.records.changes import DELETED, Change, change_of, envelope_of
from worker.records.choices import VectorBytes
from worker.records.first_bytes import bytes_of_base64, look_of_array, look_of_text
from worker.records.formats.paths import Source
from worker.records.formats.values import Kind, Raw
from worker.records.members import NOTHING, Encoding, Fields, fields_of, members_of, text_of
from worker.records.vector_forms import (
    FORMS_NOT_READ,
    NUMBER_MAPS,
    VECTORS,
    are_whole,
    form_of_map,
    is_number,
    json_in,
    packed,
    packed_as_string,
)
from worker.words import clean

_MOST_SHOWN: Final = 8  # fields in a message
_NAME_CHARACTERS: Final = 40
_MOST_MEMBERS: Final = 64  # of each map, in which a vector is searched for
_MOST_MAPS: Final = 1000  # of a value, that are cut in such a search
_MOST_TIMES: Final = 16  # that so many bytes as the value has are cut in such a search
_DEEPEST: Final = 4
_FEWEST: Final = 2  # numbers of what may be a vector
_KEYS: Final = (
    "key", "id", "_id", "uuid", "doc_id", "docId", "document_id", "documentId", "chunk_id", "chunkId", "vector_id", "pk", "id_",
)  # fmt: skip

Steps = tuple[str | int, ...]


class _Left:
    """How much of a value may still be cut in a search, in maps and in bytes: what is in a list is cut several times."""

    def __init__(self, members: Mapping[str, Raw]) -> None:
        self._maps = _MOST_MAPS
        self._bytes = _MOST_TIMES * sum(len(memoryview(raw)) for raw in members.values())

    def allows(self, raw: Raw) -> bool:
        """Return whether a map may be cut, and count it."""
        self._maps -= 1
        self._bytes -= len(memoryview(raw))
        return self._maps >= 0 and self._bytes >= 0


class Found(NamedTuple):
    """A vector in a value: where it is, in which form, and the maps around it, the outermost first."""

    steps: Steps
    form: str
    maps: tuple[Mapping[str, Raw], ...]
    is_many: bool = False  # it is in a list of records, which `steps` leads to; then `inner` leads on
    inner: Steps = ()
    is_whole: bool = False  # its first numbers have no fraction, as int8 and bits have none


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
        if said is None and (change := change_of(encoding, members)) is not None:
            said = self._changed(encoding, members, change)
        if said is None:
            said = self._by_its_parts(encoding, members)
        return said and f"{names_shown(members)}; {said}"

    def record_of(self, fields: Fields) -> Fields | None:
        """Return what is in the envelope of the settings, None where nothing is; a value without it as it is."""
        envelope = envelope_of(*fields)
        if envelope is None or envelope.setting != self._envelope:
            return fields
        members = None if envelope.row is None else members_of(fields.encoding, envelope.row)
        return None if members is None else Fields(fields.encoding, members)

    def data_of(self, value: bytes) -> bytes:
        """Return the data of a CloudEvent that has it in base64, as the setting reads it; any other value as it is."""
        fields = fields_of(value) if self._envelope == "cloudevents" else None
        if fields is None or "specversion" not in fields.members:
            return value
        return (
            bytes_of_base64(text_of(fields.encoding, fields.members.get("data_base64", NOTHING)).rstrip("=")) or value
        )

    def text_words(self, fields: Fields) -> str:
        """Return what the text is that should be a vector in base64."""
        raw = _at(fields.encoding, fields.members, self._vector_path)
        text = text_of(fields.encoding, raw) if fields.encoding.kind(raw) is Kind.STRING else ""
        look = look_of_text(text) if text else ""
        return look and f"{self._vector_path} {look}"

    def string_words(self, fields: Fields) -> str:
        """Return what the string is that should be a vector and is no text, "" where it is not known."""
        raw = _at(fields.encoding, fields.members, self._vector_path)
        form = packed_as_string(fields.encoding, raw, self._dimension)
        return form and f"{self._vector_path} looks like {FORMS_NOT_READ[form]}"

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
        envelope = envelope_of(encoding, members)
        if envelope is None:
            return None
        name, setting, row, note = envelope
        if setting == self._envelope:
            return ""
        within = "" if row is None else self._settings_for(encoding, row)
        return f'it looks like {name}: set records.envelope = "{setting}"{within}{note and "; "}{note}'

    def _settings_for(self, encoding: Encoding, row: Raw) -> str:
        """Return the settings for the record within an envelope, where its shape is another too."""
        inner = members_of(encoding, row)
        found = None if inner is None else self._find(encoding, inner)
        if found is None or found.is_many or path_of(found.steps) == self._vector_path:
            return ""
        return f" and {self._settings(encoding, found)}"

    def _changed(self, encoding: Encoding, members: Mapping[str, Raw], change: Change) -> str:
        """Return what reads a change so that its deletes are deletes, "" where its settings are in force."""
        says = f"it looks like {change.name}"
        if not change.row:
            return f"{says}, {change.note}"
        row = members_of(encoding, members.get(change.row, NOTHING)) or {}
        steps: Steps = ()
        maps: tuple[Mapping[str, Raw], ...] = (row,)
        found = self._find(encoding, row)
        if found is None or found.is_many or found.form in FORMS_NOT_READ:
            if _at(encoding, members, self._vector_path) is not NOTHING:
                return ""
            vector = f"records.fields.vector = the path of the vector in {change.row}"
        else:
            path, steps, maps = path_of((change.row, *found.steps)), found.steps, found.maps
            if path == self._vector_path:
                return ""
            vector = _setting("vector", path)
        settings = [vector, _setting("delete", change.delete), change.more]
        if change.keys != Source.KAFKA_KEY.value:
            if change.keys:
                steps, maps = (), (members_of(encoding, members.get(change.keys, NOTHING)) or {},)
            key, is_number = _key_in(encoding, maps, steps)
            settings.insert(1, _key_setting(f"{change.keys or change.row}.{key}", is_number=is_number) if key else "")
        return f"{says}: set {', '.join(filter(None, settings))}{change.note and '; '}{change.note}"

    # -- other shapes

    def _by_its_parts(self, encoding: Encoding, members: Mapping[str, Raw]) -> str:
        found = self._find(encoding, members)
        if found is None:
            return self._without_vector(encoding, members)
        if found.is_many:
            return self._many(encoding, found)
        path = path_of(found.steps)
        if found.form in FORMS_NOT_READ:
            place = path.removesuffix("[0]") if found.form == "lists" else path
            return f"{place} looks like {FORMS_NOT_READ[found.form]}"
        if path == self._vector_path:
            return ""
        return f"{found.form} is in {path}: set {self._settings(encoding, found)}"

    def _without_vector(self, encoding: Encoding, members: Mapping[str, Raw]) -> str:
        if encoding.kind(_at(encoding, members, self._vector_path)) in (Kind.STRING, Kind.BINARY):
            return ""
        for name, raw in islice(members.items(), _MOST_MEMBERS):
            text = text_of(encoding, raw) if encoding.kind(raw) is Kind.STRING else ""
            if look := look_of_array(text) or json_in(text):
                return f"{path_of((name,))} {look}"
        for name, row in DELETED.items():
            if name in members:
                return f'it looks like {row}: set records.fields.delete = "{name}"'
        return "there is no list of numbers in it"

    def _many(self, encoding: Encoding, found: Found) -> str:
        path = path_of(found.steps)
        settings = [] if self._is_many else ['records.many = "split"']
        settings.append(_setting("records", path))
        element = found._replace(steps=found.inner)
        if path_of(found.inner) != self._vector_path:
            settings.append(self._settings(encoding, element))
        if not _key_in(encoding, found.maps, found.inner)[0]:
            index = _index_in(encoding, found.maps[0])
            if not index:
                return (
                    f"{path} is a list of records without keys, and with the Kafka key as the key of each only the last one would "
                    f"remain: publish one record in a message, or give each a key and set {', '.join(settings)}"
                )
            settings.append(_key_setting(f"{{$kafka.key}}/{{{index}}}", is_number=True))
        return f"{path} is a list of records: set {', '.join(settings)}; or publish one record in a message"

    def _settings(self, encoding: Encoding, found: Found) -> str:
        settings = [_setting("vector", path_of(found.steps))]
        path, is_number = _key_in(encoding, found.maps, found.steps)
        if path and path != "key":
            settings.append(_key_setting(path, is_number=is_number))
        if (form := found.form.partition(" ")[0]) in get_args(VectorBytes):
            settings.append(f'records.vector_bytes = "{form}"')
        if self._envelope != "debezium":  # that has a mark of deletion of its own
            settings += [_setting("delete", name) for name in DELETED if name in found.maps[0]]
        return ", ".join(settings)

    # -- the search

    def _find(self, encoding: Encoding, members: Mapping[str, Raw], left: _Left | None = None) -> Found | None:
        """Return the vector of a value, the shallowest; a list of as many numbers as the index has dimensions comes first."""
        best = self._best(encoding, members, left)
        return best and best[1]

    def _best(
        self, encoding: Encoding, members: Mapping[str, Raw], left: _Left | None
    ) -> tuple[tuple[int, ...], Found] | None:
        """Return the same, and before it what it was chosen by: first 0 where it has as many numbers as the index, else 1."""
        best: tuple[tuple[int, ...], Found] | None = None
        for found, length in self._vectors(encoding, members, left or _Left(members)):
            name = next((step for step in reversed(found.steps + found.inner) if isinstance(step, str)), "")
            depth = len(found.steps) + len(found.inner)
            rank = (length != self._dimension, name not in VECTORS, found.is_whole, depth)
            if best is None or rank < best[0]:
                best = (rank, found)
        return best

    def _vectors(self, encoding: Encoding, top: Mapping[str, Raw], left: _Left) -> Iterator[tuple[Found, int]]:
        """Yield what may be a vector, with the count of its numbers, 0 where that is not known."""
        waiting: deque[tuple[Steps, tuple[Mapping[str, Raw], ...]]] = deque([((), (top,))])
        while waiting:
            steps, maps = waiting.popleft()
            for name, raw in islice(maps[-1].items(), _MOST_MEMBERS):
                here = (*steps, name)
                kind = encoding.kind(raw)
                if kind is Kind.MAP and len(here) < _DEEPEST and left.allows(raw):
                    inner = members_of(encoding, raw) or {}
                    if form := form_of_map(encoding, raw, inner):
                        yield Found(here, form, maps), 0 if form == "sparse" else self._dimension
                    else:
                        waiting.append((here, (*maps, inner)))
                elif kind is Kind.LIST:
                    yield from self._in_list(encoding, Found(here, "", maps), encoding.elements(raw), left)
                elif kind in (Kind.BINARY, Kind.STRING) and (form := packed(encoding, name, raw, self._dimension)):
                    yield Found(here, form, maps), self._dimension

    def _in_list(
        self, encoding: Encoding, at: Found, elements: Sequence[Raw], left: _Left
    ) -> Iterator[tuple[Found, int]]:
        here, _, maps, *_ = at
        kinds = [encoding.kind(element) for element in elements[:_FEWEST]]
        first = kinds[0] if kinds else Kind.NOTHING
        if Kind.NUMBER in kinds and len(elements) >= _FEWEST:
            is_whole = are_whole(encoding, elements)
            yield Found(here, f"a list of {len(elements)} numbers", maps, is_whole=is_whole), len(elements)
        elif first is Kind.LIST:
            inner = encoding.elements(elements[0])
            if len(inner) >= _FEWEST and encoding.kind(inner[0]) is Kind.NUMBER:
                form = f"a list of {len(inner)} numbers" if len(elements) == 1 else "lists"
                yield Found((*here, 0), form, maps, is_whole=are_whole(encoding, inner)), len(inner)
        elif first is Kind.STRING:
            if form := packed(encoding, "", elements[0], self._dimension):
                yield Found((*here, 0), form if len(elements) == 1 else "lists", maps), self._dimension
            elif len(elements) == self._dimension and is_number(text_of(encoding, elements[0])):
                yield Found(here, "strings", maps), self._dimension
        elif first is Kind.MAP and left.allows(elements[0]):
            record = members_of(encoding, elements[0]) or {}
            if len(record) == 1 and len(elements) == self._dimension and not NUMBER_MAPS.isdisjoint(record):
                yield Found(here, "numbers in maps", maps), self._dimension
            elif (found := self._find_flat(encoding, record, left)) is not None:
                yield found._replace(steps=here, is_many=True, inner=found.steps), self._dimension

    def _find_flat(self, encoding: Encoding, record: Mapping[str, Raw], left: _Left) -> Found | None:
        """Return the vector of an element of a list, which is not in a list again: nor may a list of maps in it have vectors."""
        lists = _lists_of_maps(encoding, record)
        found = self._find(encoding, {name: raw for name, raw in record.items() if name not in lists}, left)
        if found is None or found.is_many:
            return None
        for name, inner in lists.items():
            if not left.allows(record[name]):
                return None
            inner_lists = _lists_of_maps(encoding, inner)
            flat = {name: raw for name, raw in inner.items() if name not in inner_lists}
            if (best := self._best(encoding, flat, left)) and not best[0][0]:
                return None
        return found


def _key_in(encoding: Encoding, maps: tuple[Mapping[str, Raw], ...], steps: Steps) -> tuple[str, bool]:
    """Return the path of what is likely the key, the nearest to the vector, and whether it is a number; "" if there is none."""
    for depth in range(len(maps) - 1, -1, -1):
        others = (name for name in islice(maps[depth], _MOST_MEMBERS) if name.lower().endswith("id"))
        for name in (*_KEYS, *others):
            raw = maps[depth].get(name, NOTHING)
            kind = encoding.kind(raw)
            if kind in (Kind.STRING, Kind.NUMBER):
                return path_of((*steps[:depth], name)), kind is Kind.NUMBER
            if kind is Kind.MAP and "$oid" in (members_of(encoding, raw) or {}):  # of MongoDB
                return path_of((*steps[:depth], name, "$oid")), False
    return "", False


def _index_in(encoding: Encoding, record: Mapping[str, Raw]) -> str:
    """Return the path of a number that says the place of a record in its list, "" if there is none."""
    for name in islice(record, _MOST_MEMBERS):
        if name.lower().endswith("index") and encoding.kind(record[name]) is Kind.NUMBER:
            return path_of((name,))
    return ""


def _setting(name: str, path: str) -> str:
    """Return a setting of records.fields as TOML has it."""
    quote = "'" if '"' in path else '"'
    return f"records.fields.{name} = {quote}{path}{quote}"


def _key_setting(path: str, *, is_number: bool) -> str:
    setting = _setting("key", path)
    return f'{setting}, records.key_values = "stringify"' if is_number else setting


def _lists_of_maps(encoding: Encoding, record: Mapping[str, Raw]) -> Mapping[str, Mapping[str, Raw]]:
    """Return the first element of each list of maps that a record has, by the name of the list."""
    found = {}
    for name, raw in islice(record.items(), _MOST_MEMBERS):
        if encoding.kind(raw) is Kind.LIST:
            elements = encoding.elements(raw)
            if elements and encoding.kind(elements[0]) is Kind.MAP:
                found[name] = members_of(encoding, elements[0]) or {}
    return found


def _at(encoding: Encoding, members: Mapping[str, Raw], path: str) -> Raw:
    """Return what is at a path of plain names, empty if nothing is."""
    within: Mapping[str, Raw] | None = members
    *names, last = path.split(".")
    for name in names:
        within = members_of(encoding, (within or {}).get(name, NOTHING))
    return (within or {}).get(last, NOTHING)
