"""The schemas that are here: what reads the bodies of each, or why none can be read by it."""

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from worker.errors import FatalError, Reason, RecordError, RegistryUnavailable, SchemaPending, place_of
from worker.ports import SchemaAnswer
from worker.records.formats.by_schema import AS_IT_IS, SchemaReader
from worker.records.formats.framing import Framed, SchemaId
from worker.records.formats.values import BYTE_ORDER_MARK
from worker.registry.avro import AvroReader
from worker.registry.client import NoSuchSchema, SchemaText, UnusableForNow, UnusableSchema
from worker.registry.protobuf import ProtobufReader
from worker.words import clean

log = logging.getLogger("worker.registry")

MOST_SCHEMAS: Final = 1_000
"""That are kept; the oldest goes first, and is asked for again when a record needs it."""
UNKNOWN_SECONDS: Final = 60.0
"""After which the registry is asked again for a schema that it did not have, or that could not be looked at then."""
MOST_CUT_SHORT: Final = 3
"""Attempts at one schema in a row that were ended from outside. With the last one its records are refused: it may be the cause."""
_NEVER: Final = float("inf")


class JsonReader:
    """Returns bodies as they are. What a JSON Schema allows is not checked: the worker has checks of its own."""

    encoding = AS_IT_IS

    def plain(self, framed: Framed, /) -> bytes:
        """Return a body as it is."""
        return framed.body.removeprefix(BYTE_ORDER_MARK)


class _Refusal:
    """Stands where there is no reader: every record of the schema is refused, until a moment of the monotonic clock."""

    encoding = "nothing"

    def __init__(self, problem: str, until: float = _NEVER) -> None:
        self._problem = problem
        self.until = until

    def plain(self, _framed: Framed, /) -> bytes:
        """Raise `RecordError`, which names the schema."""
        raise RecordError(Reason.UNSUPPORTED_ENCODING, self._problem, is_complete=True)


def reader_of(schema: SchemaText) -> SchemaReader:
    """Return what reads the bodies of a schema. Raises `UnusableSchema`; and `RegistryUnavailable` where protoc cannot be run."""
    if schema.kind == "AVRO":
        return AvroReader(schema)
    if schema.kind == "PROTOBUF":
        return ProtobufReader(schema)
    if schema.kind == "JSON":
        return JsonReader()
    raise UnusableSchema(f"it is of the type {clean(schema.kind, 100)!r}; AVRO, PROTOBUF and JSON are read")


class FetchesSchemas(Protocol):
    """Whatever gives schemas: a registry's client."""

    def fetch(self, schema: SchemaId, /) -> SchemaText:
        """Return a schema. Raises `NoSuchSchema`, `UnusableSchema` and `RegistryUnavailable`."""


class Book:
    """Keeps schemas, which never change. One thread adds, another one reads."""

    def __init__(self, source: FetchesSchemas, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._readers: dict[SchemaId, SchemaReader] = {}
        self._cut_short: dict[SchemaId, int] = {}  # attempts in a row that were ended from outside

    def reader(self, schema: SchemaId, /) -> SchemaReader:
        """Return what reads bodies of a schema. Raises `SchemaPending` where it is not here."""
        if (found := self._known(schema)) is None:
            raise SchemaPending(schema)
        return found

    def _known(self, schema: SchemaId) -> SchemaReader | None:
        found = self._readers.get(schema)
        return None if type(found) is _Refusal and self._clock() >= found.until else found

    def has(self, schema: SchemaId) -> bool:
        """Return whether the schema is here, or it is known that it is not to be had."""
        return self._known(schema) is not None

    def add(self, schema: SchemaId, /, *, believes_unknown: bool = True) -> SchemaAnswer | None:
        """Ask the registry for a schema, and keep it, or why it cannot be used.

        Raises `RegistryUnavailable`. That is also where something else on this machine ended the attempt, until this happened
        `MOST_CUT_SHORT` times in a row.

        If `believes_unknown` is false, and the registry does not know a schema that was not asked for before, nothing is kept and
        None is returned.
        """
        answer = SchemaAnswer.UNUSABLE
        try:
            reader = reader_of(self._source.fetch(schema))
            answer = SchemaAnswer.FOUND
        except RegistryUnavailable:
            raise
        except NoSuchSchema as error:
            if not believes_unknown and schema not in self._readers:
                return None
            said = f": {error}" if str(error) else ""
            problem = f"the registry does not know {schema}, which the record names{said}"
            reader = _Refusal(problem, self._clock() + UNKNOWN_SECONDS)
            answer = SchemaAnswer.UNKNOWN
        except UnusableForNow as error:
            self._cut_short[schema] = self._cut_short.get(schema, 0) + 1
            if self._cut_short[schema] < MOST_CUT_SHORT:
                raise RegistryUnavailable(str(error)) from error
            reader = _Refusal(f"{schema} cannot be used: {error}", self._clock() + UNKNOWN_SECONDS)
        except UnusableSchema as error:
            reader = _Refusal(f"{schema} cannot be used: {error}")
        except Exception as error:
            # Whatever a schema is made of, it costs the records that need it, and not the worker.
            log.exception("a schema could not be read")
            problem = f"{schema} cannot be used: reading it failed with {type(error).__name__} at {place_of(error)}"
            reader = _Refusal(f"{problem}; that is a fault of the worker, please report it with this line")
        if answer is SchemaAnswer.FOUND:
            self._cut_short.pop(schema, None)
        while len(self._readers) >= MOST_SCHEMAS:
            oldest = next(iter(self._readers))
            del self._readers[oldest]
            self._cut_short.pop(oldest, None)
        self._readers.pop(schema, None)
        self._readers[schema] = reader
        return answer


class AskingBook(Book):
    """Asks the registry as soon as a record needs a schema, and waits for it. For commands, which have nothing else to do."""

    def reader(self, schema: SchemaId, /) -> SchemaReader:
        """Return what reads bodies of a schema. Raises `FatalError` where the registry does not say."""
        while not self.has(schema):
            try:
                self.add(schema)
            except RegistryUnavailable as error:
                if not isinstance(
                    error.__cause__, UnusableForNow
                ):  # else it is tried again, `MOST_CUT_SHORT` times in all
                    raise FatalError(f"the schema registry does not give {schema}: {error}") from error
        return super().reader(schema)
