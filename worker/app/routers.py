"""Routers: which index a message of a topic goes to, and what it asks for there.

A router is made from one route, and knows the indexes that were found. The worker and the commands route with the same one.
A record is decoded by the rules of the index that it goes to.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from worker.app.decoders import decoder_of, options_of
from worker.errors import Reason, RecordError
from worker.records.choices import Format
from worker.records.decode import Decoded, Decoder, Delete, Ignore
from worker.records.formats.by_schema import Schemas
from worker.records.formats.contract import Headers
from worker.records.keys import in_quotes
from worker.records.record_key import key_reader
from worker.records.routing_value import reader_of
from worker.records.shards import shard_of
from worker.records.target import Target
from worker.settings.tables import Route, Settings
from worker.words import clean

NO_INDEX: Final = ""
"""Of a message whose index is not known: it asks for nothing, or cannot be read."""
DEFAULT: Final = "default"
_SHOWN_CHARACTERS: Final = 80
_LONGEST_QUOTED: Final = 1024  # a routing value that is longer is looked up only as it is
_NEEDS_NO_INDEX: Final = (Reason.MALFORMED, Reason.UNSUPPORTED_ENCODING, Reason.TOMBSTONE)


class Routed(NamedTuple):
    """The index that a message goes to, and what it asks for there, or why it can never be written.

    `decoded` is None where the index was not found yet: the message can be read later.
    """

    to: str
    decoded: Decoded | RecordError | None


class Reads(Protocol):
    """What reads a record: a decoder, or the router of a route."""

    def decode(self, key: bytes | None, value: bytes | None, headers: Headers, /) -> Decoded:
        """Return what a message asks for. Raises `RecordError`."""


class Router(ABC):
    """Routes the messages of one topic."""

    @abstractmethod
    def add(self, target: Target) -> None:
        """Note an index that was found, or what it is by now."""

    @abstractmethod
    def route(self, key: bytes | None, value: bytes | None, headers: Headers) -> Routed:
        """Return where a message goes, and what it asks for. At least one index must be found."""

    @abstractmethod
    def index_of(self, vector_key: str, key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
        """Return the index of a message whose vector has this key, without decoding it; None where it has none."""

    def decode(self, key: bytes | None, value: bytes | None, headers: Headers) -> Decoded:
        """Return what a message asks for. Raises `RecordError`. Every index must be found."""
        found = self.route(key, value, headers).decoded
        if isinstance(found, RecordError):
            raise found
        assert found is not None  # noqa: S101 - every index was found
        return found


class ToOne(Router):
    """Every message goes to one index."""

    def __init__(
        self,
        index: str,
        topic: str,
        settings: Settings,
        record_format: Format | None = None,
        schemas: Schemas | None = None,
    ) -> None:
        self._index = index
        self._topic = topic
        self._settings = settings
        self._format = record_format
        self._schemas = schemas
        self._decoder: Decoder | None = None

    def add(self, target: Target) -> None:
        """Note the index."""
        self._decoder = decoder_of(
            target, self._settings, self._topic, record_format=self._format, schemas=self._schemas
        )

    def route(self, key: bytes | None, value: bytes | None, headers: Headers) -> Routed:
        """Return what the message asks for."""
        return Routed(self._index, None if self._decoder is None else outcome_of(self._decoder, key, value, headers))

    def index_of(self, vector_key: str, key: bytes | None, value: bytes | None, headers: Headers) -> str:  # noqa: ARG002 - of every router
        """Return the one index."""
        return self._index


class ByKey(Router):
    """The vector's key chooses the shard. All shards have one dimension and one metric, and mostly the same metadata keys.

    The key of a record may be in its value, so a record is decoded before its shard is known. Where shards differ in their
    metadata keys, it is decoded again by the rules of its shard. So one whose metadata no shard found so far accepts may be right
    for a shard that is missing.
    """

    def __init__(
        self,
        shards: tuple[str, ...],
        topic: str,
        settings: Settings,
        record_format: Format | None = None,
        schemas: Schemas | None = None,
    ) -> None:
        self._shards = shards
        self._topic = topic
        self._settings = settings
        self._format = record_format
        self._schemas = schemas
        self._targets: dict[str, Target] = {}
        self._decoders: dict[frozenset[str], Decoder] = {}
        self._key_of = key_reader(options_of(settings.records_of(topic)), schemas)

    def add(self, target: Target) -> None:
        """Note a shard."""
        self._targets[target.index] = target
        # The largest record is that of the shard with the longest name, so that it does not depend on the key.
        names = sorted(self._shards, key=len)
        self._decoders = {
            known.non_filterable_metadata_keys: decoder_of(
                known,
                self._settings,
                self._topic,
                record_format=self._format,
                longest_index=names[-1],
                schemas=self._schemas,
            )
            for known in self._targets.values()
        }

    def route(self, key: bytes | None, value: bytes | None, headers: Headers) -> Routed:
        """Return the shard, and what the message asks for."""
        decoders = self._decoders
        first: RecordError | None = None
        for rules, decoder in decoders.items():
            decoded = outcome_of(decoder, key, value, headers)
            if isinstance(decoded, RecordError):  # its key is not known; other rules may accept it
                first = first or decoded
                continue
            if isinstance(decoded, Ignore):
                return Routed(NO_INDEX, decoded)
            index = self.index_of(decoded.key, key, value, headers)
            target = self._targets.get(index)
            if target is None:
                return Routed(index, None)
            if target.non_filterable_metadata_keys != rules:
                return Routed(index, outcome_of(decoders[target.non_filterable_metadata_keys], key, value, headers))
            return Routed(index, decoded)
        if first is not None and first.reason is Reason.METADATA and len(self._targets) < len(self._shards):
            own_key = self._key_of(key, value, headers)
            index = NO_INDEX if own_key is None else self.index_of(own_key, key, value, headers)
            if index and index not in self._targets:
                return Routed(index, None)
        return Routed(NO_INDEX, first)

    def index_of(self, vector_key: str, key: bytes | None, value: bytes | None, headers: Headers) -> str:  # noqa: ARG002 - of every router
        """Return the shard of the vector's key."""
        return self._shards[shard_of(vector_key, len(self._shards))]


class ByValue(Router):
    """A header or a field chooses the index."""

    def __init__(
        self, route: Route, settings: Settings, record_format: Format | None = None, schemas: Schemas | None = None
    ) -> None:
        self._named = route.index_by.replace(":", " ", 1)
        records = settings.records_of(route.topic)
        self._read = reader_of(route.index_by, options_of(records), schemas)
        self._indexes: Mapping[str, str] = route.indexes
        self._topic = route.topic
        self._settings = settings
        self._format = record_format
        self._schemas = schemas
        self._deletes = records.tombstones == "delete" and records.envelope != "debezium"
        self._decoders: dict[str, Decoder] = {}
        self._of_none: Decoder | None = None  # of its own: a decoder learns which vectors of its index are usual

    def add(self, target: Target) -> None:
        """Note an index."""
        self._decoders[target.index] = self._decoder_of(target)
        self._of_none = self._of_none or self._decoder_of(target)

    def _decoder_of(self, target: Target) -> Decoder:
        return decoder_of(target, self._settings, self._topic, record_format=self._format, schemas=self._schemas)

    def route(self, key: bytes | None, value: bytes | None, headers: Headers) -> Routed:
        """Return the index, and what the message asks for."""
        if value is None and not self._deletes:
            return Routed(NO_INDEX, outcome_of(self._any(), key, value, headers))
        try:
            text = self._read(key, value, headers)
        except RecordError as error:  # what chooses the index is no text
            return Routed(NO_INDEX, self._without_index(error, key, value, headers))
        index = self._index_of(text, is_tombstone=value is None)
        if index is None:
            return Routed(NO_INDEX, self._without_index(self._no_route(text, value), key, value, headers))
        decoder = self._decoders.get(index)
        if decoder is None:
            return Routed(index, None)
        decoded = outcome_of(decoder, key, value, headers)
        if text is None and isinstance(decoded, Delete):  # as for a tombstone
            return Routed(NO_INDEX, self._nowhere())
        return Routed(index, decoded)

    def index_of(self, vector_key: str, key: bytes | None, value: bytes | None, headers: Headers) -> str | None:  # noqa: ARG002 - of every router
        """Return the index that the header or field names."""
        try:
            return self._index_of(self._read(key, value, headers), is_tombstone=value is None)
        except RecordError:
            return None

    def _index_of(self, text: str | None, *, is_tombstone: bool) -> str | None:
        """Return the index, None where there is none.

        A tombstone that does not say its index never goes to the default: its vector may be in any of them, and a delete in
        the wrong one would leave it where it is, or delete the vector that another producer gave the same key.
        """
        if text is None:
            return None if is_tombstone else self._indexes.get(DEFAULT)
        index = self._indexes.get(text)
        if index is None and text.startswith('"') and len(text) <= _LONGEST_QUOTED:
            # Kafka Connect's JsonConverter writes the text of a header as a JSON string.
            index = self._indexes.get(in_quotes(text.encode()) or DEFAULT)
        # The settings may have the quotes too, as a Kafka key that is a JSON string has them.
        return index or self._indexes.get(f'"{text}"') or self._indexes.get(DEFAULT)

    def _without_index(
        self, error: RecordError, key: bytes | None, value: bytes | None, headers: Headers
    ) -> Decoded | RecordError:
        """Return what becomes of a message without an index: the error, unless it asks for nothing, or cannot be read."""
        if value is not None:
            decoded = outcome_of(self._any(), key, value, headers)
            if isinstance(decoded, Ignore):
                return decoded
            if isinstance(decoded, RecordError) and decoded.reason in _NEEDS_NO_INDEX:
                return decoded
        return error

    def _no_route(self, text: str | None, value: bytes | None) -> RecordError:
        """Return why a message with this routing value has no index."""
        if text is not None:
            shown = clean(text, _SHOWN_CHARACTERS)
            return RecordError(Reason.NO_ROUTE, f"{self._named} is {shown!r}, which routes.indexes does not have")
        if value is None:
            return self._nowhere()
        return RecordError(
            Reason.NO_ROUTE, f"there is no {self._named}, or it is no text, and no default in routes.indexes"
        )

    def _nowhere(self) -> RecordError:
        what = "it deletes a vector and names no index; a tombstone needs the header of index_by"
        return RecordError(Reason.NO_ROUTE, f"{what} ({self._named})")

    def _any(self) -> Decoder:
        """Return what reads messages without an index."""
        assert self._of_none is not None  # noqa: S101 - at least one index was found
        return self._of_none


def router_of(
    route: Route, settings: Settings, *, record_format: Format | None = None, schemas: Schemas | None = None
) -> Router:
    """Return the router of a route, which knows no index yet.

    `schemas` are those of the registry, if the settings name one.
    """
    schemas = schemas_for(route.topic, settings, schemas)
    if route.is_sharded:
        return ByKey(route.index_names, route.topic, settings, record_format, schemas)
    if route.index_by:
        return ByValue(route, settings, record_format, schemas)
    return ToOne(route.index_names[0], route.topic, settings, record_format, schemas)


def schemas_for(topic: str, settings: Settings, schemas: Schemas | None) -> Schemas | None:
    """Return what the records of a topic are read by, of the registry's schemas.

    A topic whose messages are cut is read without: records are cut out of JSON and MessagePack.
    """
    return None if settings.records_of(topic).many == "split" else schemas


def outcome_of(decoder: Reads, key: bytes | None, value: bytes | None, headers: Headers) -> Decoded | RecordError:
    """Return what a message asks for, or what is wrong with it."""
    try:
        return decoder.decode(key, value, headers)
    except RecordError as error:
        return error


def agreement(target: Target, siblings: Mapping[str, Target]) -> str:
    """Return how a shard differs from the others of its logical index in dimension or metric, "" if it does not."""
    for other in siblings.values():
        for name in ("dimension", "distance_metric"):
            own, theirs = getattr(target, name), getattr(other, name)
            if own != theirs:
                return f"shards of one index must agree: {name} of {target.index} is {own}, of {other.index} it is {theirs}"
    return ""


def shard_siblings(index: str, routes: tuple[Route, ...]) -> frozenset[str]:
    """Return the other shards of the logical indexes that this index is a shard of."""
    names = {name for route in routes if route.is_sharded and index in route.index_names for name in route.index_names}
    return frozenset(names - {index})


def with_route_keys(target: Target, routes: tuple[Route, ...]) -> Target:
    """Return an index as the service describes it, with the metadata keys that its routes give, if they do."""
    keys = frozenset(key for route in routes for key in route.non_filterable_metadata_keys)
    return msgspec.structs.replace(target, non_filterable_metadata_keys=keys) if keys else target
