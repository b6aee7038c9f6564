"""Records of any shape that `[records.fields]` describes, read in one encoding.

1. `Leaves` cuts out the parts that the shape names, undecoded.
2. Each part is decoded by itself, in the usual way first, and step by step where that fails.

It reads the service's own shape too, and then reads the same record as `at_once.py`: tests hold that.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final, TypeVar

from worker.errors import Reason, RecordError
from worker.records.floats import list_reader
from worker.records.formats import connect_schema
from worker.records.formats.around import (
    Around,
    is_delete,
    key_around,
    looks_often,
    no_key,
    says_delete,
    text_around,
)
from worker.records.formats.connect_schema import Logical
from worker.records.formats.contract import (
    AnyMetadata,
    Headers,
    LooseMetadata,
    Metadata,
    Operation,
    Options,
    Record,
    Scalar,
    Vector,
)
from worker.records.formats.fields import NOTHING, FieldReader
from worker.records.formats.leaves import Leaves
from worker.records.formats.metadata_fields import MetadataReader
from worker.records.formats.paths import Path, Source
from worker.records.formats.shape import KEY_PATH
from worker.records.formats.toast import (
    LONGEST,
    SIZE,
    TEXTS,
    are_unchanged_bytes,
    are_unchanged_numbers,
    is_unchanged,
    unchanged,
)
from worker.records.formats.values import AT_ONCE_BYTES, BYTES_OF_A_NUMBER, UNREADABLE, Kind, Raw
from worker.records.formats.vector_bytes import unpacker
from worker.records.formats.vector_text import as_json, is_list
from worker.records.limits import METADATA_MAX_BYTES
from worker.records.metadata import shown
from worker.records.target import LIMIT_SOURCE

_SPECVERSION: Final = ("specversion",)
_MOST_BYTES_OF_ONE: Final = 40  # a number that is 0 or 1 has no more in any usual form: a decimal may have 38 places
_STRICT_VALUE: Final = str | list[str]
_LOOSE_VALUE: Final = str | int | float | bool | list[Scalar] | None
_METADATA_ALLOWED: Final = f"allowed are {METADATA_MAX_BYTES} bytes a vector ({LIMIT_SOURCE})"
_KEY_ALLOWED: Final = 'allowed is a string (records.key_values = "stringify" accepts integers too)'
_DECIMAL_KEY: Final = 'records.key_values = "stringify" makes its digits the key'
_DELETE_ALLOWED: Final = "allowed for records.fields.delete are texts, booleans, 0 and 1"
_NO_MARKS: Final = (Kind.MAP, Kind.LIST, Kind.BINARY, Kind.EXTENSION)
_M = TypeVar("_M", bound=Metadata | LooseMetadata | None)


class MappedReader:
    """Reads the records of one route in one encoding, by the shape that the route has."""

    def __init__(self, fields: FieldReader, options: Options) -> None:
        shape = options.shape
        self._fields = fields
        self._shape = shape
        self._keys = options.keys
        self._looks_often = looks_often(shape.paths)
        self._refuses_events = options.envelope == "none"
        self._is_loose_key = options.key_values == "stringify"
        in_value = [path.steps for path in shape.paths if path.source is Source.VALUE]
        self._leaves = Leaves(fields, [*in_value, _SPECVERSION])
        self._slots = {path: self._leaves.slot(path.steps) for path in shape.paths if path.source is Source.VALUE}
        key_paths = (KEY_PATH,) if shape.key is None else shape.key.paths
        typed = key_paths if self._is_loose_key else ()
        if fields.is_loose and shape.metadata is not None and not isinstance(shape.metadata, Path):
            typed += tuple(path for _, path in shape.metadata)
        self._typed = [(self._slots[path], _names(path)) for path in typed if path.source is Source.VALUE]
        self._specversion = self._leaves.slot(_SPECVERSION)
        self._vector_slot = self._slots[shape.vector]
        self._numbers_at_once = fields.numbers_at_once(options.dimension)
        self._bytes_at_once = fields.decoder(bytes)  # base64 too, in its usual form
        self._unpack = unpacker(options.vector_bytes)
        self._numbers_in_text = list_reader(options.dimension)
        self._most_text = AT_ONCE_BYTES + BYTES_OF_A_NUMBER * options.dimension
        self._map_at_once = fields.decoder(LooseMetadata if fields.is_loose else Metadata)
        self._text_at_once = fields.decoder(_LOOSE_VALUE if fields.is_loose else _STRICT_VALUE)

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        """Return what the value says. Raises `RecordError`."""
        return self.record(value, Around(key, headers))

    def record(self, body: bytes, around: Around) -> Record:
        """Return what a value says in its surroundings. Raises `RecordError`."""
        if self._looks_often:
            around = around.by_name()
        parts = self._parts(body, around)
        if self._refuses_events and parts[self._specversion] is not NOTHING:
            self._fields.refuse_cloud_event(body)
        try:
            if self._shape.delete is not None and self._says_delete(self._shape.delete, parts, around):
                return Record(self._key(parts, around), operation=Operation.DELETE)
            return self._put(parts, around)
        except RecursionError:  # a few frames deeper than where it was well-formed
            raise self._fields.too_deep() from None

    def key(self, body: bytes, around: Around) -> str | None:
        """Return the key that a value has, None where it has none of its own. Raises `RecordError`."""
        if self._looks_often:
            around = around.by_name()
        return self._key(self._parts(body, around), around)

    def _parts(self, body: bytes, around: Around) -> Sequence[Raw]:
        """Return the parts of a value, those of a logical type as text where the settings want that."""
        parts = self._leaves.read(body)
        if not around.logical:
            return parts
        changed = [*parts]
        for slot, names in self._typed:
            convert = around.logical.get(names)
            if convert is not None and (text := convert(bytes(parts[slot]))) is not None:
                changed[slot] = self._fields.encode(text)
        return changed

    def _put(self, parts: Sequence[Raw], around: Around) -> Record:
        fault, key = None, None
        try:
            key = self._key(parts, around)
        except RecordError as error:
            if error.reason is not Reason.KEY:
                raise
            fault = error  # what is wrong with the form of the vector is reported before it
        vector = self._vector(parts[self._vector_slot])
        if fault is not None:
            raise fault
        return Record(key, vector, self._metadata(parts, around))

    # -- the key

    def _key(self, parts: Sequence[Raw], around: Around) -> str | None:
        template = self._shape.key
        if template is None:
            return self._key_in_value(parts[self._slots[KEY_PATH]], KEY_PATH, around)
        texts = [part if isinstance(part, str) else self._key_part(part, parts, around) for part in template.parts]
        return texts[0] if len(texts) == 1 else "".join(texts)

    def _key_part(self, path: Path, parts: Sequence[Raw], around: Around) -> str:
        if path.source is not Source.VALUE:
            return key_around(path, around, self._keys)
        text = self._key_in_value(parts[self._slots[path]], path, around)
        if text is None:
            raise no_key(path)
        return text

    def _key_in_value(self, raw: Raw, path: Path, around: Around) -> str | None:
        if self._fields.kind(raw) is not Kind.NUMBER:
            text = self._fields.key(raw, path.text)
            if text in TEXTS:
                raise unchanged(path.text)
            if around.logical and text is not None and not self._is_loose_key and _names(path) in around.logical:
                raise self._fields.no_record(f"{path.text} is a decimal, and its text is base64; {_DECIMAL_KEY}")
            return text
        if not self._is_loose_key:
            raise self._fields.no_record(f"{path.text} is a number; {_KEY_ALLOWED}")
        text = self._fields.integer(raw)
        if text is None:
            raise self._fields.no_record(
                f"{path.text} is a number with a fraction or an exponent; allowed are integers"
            )
        return text

    # -- the vector

    def _vector(self, raw: Raw) -> Vector:
        fields, where = self._fields, self._shape.vector.text
        kind = fields.kind(raw)
        try:
            if kind is Kind.LIST and (found := self._numbers_at_once(raw)) is not None:
                if len(found) == SIZE and are_unchanged_numbers(found):
                    raise unchanged(where)
                return found
            if kind is Kind.BINARY or (kind is Kind.STRING and not self._fields.begins_a_list(raw)):
                data = self._bytes_at_once(raw)
                if len(data) <= LONGEST and are_unchanged_bytes(data):
                    raise unchanged(where)
                return self._unpack(data, where)
            if kind is Kind.STRING and (in_text := self._in_text_at_once(raw)) is not None:
                return in_text
        except UNREADABLE:
            pass
        if kind is Kind.NOTHING:
            raise fields.no_record(f"it has no {where}, where records.fields.vector says that its vector is")
        return fields.vector(raw, where)

    def _in_text_at_once(self, raw: Raw) -> Vector | None:
        """Return the numbers that are written as text; None where that must be done step by step, or it is base64."""
        text = self._fields.decode_text(raw)
        if not is_list(text) or len(text) > self._most_text:
            return None
        return self._numbers_in_text(as_json(text))

    # -- whether it is deleted

    def _says_delete(self, path: Path, parts: Sequence[Raw], around: Around) -> bool:
        if path.source is Source.VALUE:
            return self._raw_says_delete(parts[self._slots[path]], path)
        return says_delete(path, around, self._keys)

    def _raw_says_delete(self, raw: Raw, path: Path) -> bool:
        kind = self._fields.kind(raw)
        if kind is Kind.STRING:
            return is_delete(self._fields.text(raw, path.text))
        if kind in (Kind.BOOLEAN, Kind.NUMBER):
            number = self._number_of_mark(raw)
            if number in (0, 1):
                return number == 1
            raise self._fields.no_record(f"{path.text} is a number other than 0 and 1; {_DELETE_ALLOWED}")
        if kind in _NO_MARKS:  # its row may be deleted, and would be written
            raise self._fields.no_record(f"{path.text} is a {kind.value}; {_DELETE_ALLOWED}")
        return False

    def _number_of_mark(self, raw: Raw) -> float | None:
        """Return a number or a boolean, None where it is surely neither 0 nor 1: a time of deletion, say."""
        try:
            return self._fields.decode_number(raw) if len(bytes(raw)) <= _MOST_BYTES_OF_ONE else None
        except UNREADABLE:  # it is beyond the range of float64
            return None

    # -- the metadata

    def _metadata(self, parts: Sequence[Raw], around: Around) -> AnyMetadata:
        named = self._shape.metadata
        if named is None:
            return None
        if isinstance(named, Path):
            of_map = around.logical if self._fields.is_loose else connect_schema.NONE
            for step in named.steps if of_map else ():
                of_map = connect_schema.within(of_map, str(step))
            return partial(self._map, parts[self._slots[named]], named.text, of_map)
        return partial(self._single, named, parts, around)

    def _map(self, raw: Raw, where: str, logical: Logical) -> AnyMetadata:
        if logical and self._fields.kind(raw) is Kind.MAP:
            return _with_every_column(self._map_of_types(raw, logical))
        if self._fields.kind(raw) is Kind.MAP and len(bytes(raw)) <= AT_ONCE_BYTES:
            try:
                read: LooseMetadata = self._map_at_once(raw)
                return _with_every_column(read)
            except UNREADABLE:
                pass
        return _with_every_column(self._fields.metadata(raw, where))

    def _map_of_types(self, raw: Raw, logical: Logical) -> Metadata:
        members, fault = self._fields.members(raw)
        for names, convert in logical.items():
            if len(names) == 1 and names[0] in members and (text := convert(bytes(members[names[0]]))) is not None:
                members[names[0]] = self._fields.encode(text)
        return MetadataReader(self._fields, members, fault, is_loose=self._fields.is_loose).read()

    def _single(
        self, named: Sequence[tuple[str, Path]], parts: Sequence[Raw], around: Around
    ) -> Metadata | LooseMetadata | None:
        """Read the parts of the metadata that are each at a place of its own. What is not there is left out."""
        members, fault = {}, ""
        for name, path in named:
            text = None
            if path.source is Source.VALUE:
                raw = parts[self._slots[path]]
            else:
                text = text_around(path, around, self._keys)
                raw = NOTHING if text is None or len(text) > METADATA_MAX_BYTES else self._fields.encode(text)
            if raw is not NOTHING:
                members[name] = raw
            elif text is not None:  # it may be around many records: none of them encodes it
                fault = fault or f"metadata {shown(name)} has {len(text)} characters; {_METADATA_ALLOWED}"
        if not members and not fault:
            return None
        try:
            if not fault and sum(len(bytes(raw)) for raw in members.values()) <= AT_ONCE_BYTES:
                decode = self._text_at_once
                return _with_every_column({name: decode(raw) for name, raw in members.items()})
        except UNREADABLE:
            pass
        try:
            read = MetadataReader(self._fields, members, fault, is_loose=self._fields.is_loose).read()
        except RecursionError:  # likewise
            raise self._fields.too_deep() from None
        return _with_every_column(read)


def _names(path: Path) -> tuple[str, ...]:
    """Return the names in a path, as a schema's fields are found by."""
    return tuple(step for step in path.steps if isinstance(step, str))


def _with_every_column(metadata: _M) -> _M:
    """Return metadata. Raises `RecordError` where a value is Debezium's word for one that it does not have."""
    if metadata is None:
        return metadata
    for name, value in metadata.items():
        if is_unchanged(value):
            raise unchanged(f"metadata {shown(name)}")
    return metadata
