"""Asks the schema registry for the schemas that records wait for, on a thread of its own.

A registry that gives no answer, or denies, blocks the topics that wait (`registry`) until it answers. It is asked again after a
backoff. No record is at fault, and nothing is dead-lettered for it.

A registry of several nodes may not know a schema in the moments after it was registered: the one that is asked follows another.
So it is asked twice more within a few seconds before its records become dead letters. That is for few schemas in a minute: where
there are many, records name schemas that never were, and each would have its partition wait.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, Protocol

from worker.delivery.pace.backoff import Backoff
from worker.errors import BlockReason, RegistryUnavailable
from worker.extras import import_with_extra
from worker.ports import SchemaAnswer
from worker.settings.tables import Registry, Settings
from worker.telemetry.state import Block, Status

log = logging.getLogger("worker.registry")

_IDLE_SECONDS: Final = 3600.0
ASK_AGAIN_SECONDS: Final = (0.25, 2.0)
"""After which a schema that the registry does not know is asked for again, before that is believed."""
MOST_DOUBTED: Final = 10
"""Schemas in a minute that are asked for again so."""
_MINUTE: Final = 60.0


def make_book(settings: Registry, *, asks_at_once: bool) -> "tuple[Any, Callable[[], None]]":
    """Return the book of the registry that the settings name, and what closes its connections.

    `asks_at_once` is for commands: the book asks as soon as a record needs a schema, and waits. Raises `FatalError` where the
    extra is not installed.
    """
    needs = "registry.url needs"
    book = import_with_extra("worker.registry.book", "registry", needs)
    client = import_with_extra("worker.registry.client", "registry", needs).RegistryClient(settings)
    return (book.AskingBook if asks_at_once else book.Book)(client), client.close


def asking_book(settings: Settings) -> Any:
    """Return the book for a command, None where the settings name no registry. Its connections end with the process."""
    return make_book(settings.registry, asks_at_once=True)[0] if settings.registry.url else None


class KeepsSchemas(Protocol):
    """The schemas that are here, and what adds to them."""

    def reader(self, schema: Any, /) -> Any:
        """Return what reads a schema. Raises `SchemaPending`."""

    def has(self, schema: Any, /) -> bool:
        """Return whether the schema is here."""

    def add(self, schema: Any, /, *, believes_unknown: bool) -> SchemaAnswer | None:
        """Ask the registry for a schema; None if it does not know it, and that is not to be believed. Raises `RegistryUnavailable`."""


class SchemaFetcher:
    """Fetches what is wanted into the book."""

    def __init__(
        self,
        book: KeepsSchemas,
        status: Status,
        backoff: Backoff,
        *,
        count: Callable[[SchemaAnswer], None] = lambda _: None,
        close: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`count` gets what became of each request for a schema."""
        self.book = book
        self._count = count
        self._status = status
        self._backoff = backoff
        self._close = close
        self._clock = clock
        self._change = (
            threading.Condition()
        )  # held by whoever reads or changes what follows, but for a look at _is_stopping
        self._wanted: Mapping[Hashable, frozenset[str]] = {}
        self._failures: dict[Hashable, int] = {}  # failed attempts of each schema that is wanted
        self._doubts: dict[Hashable, int] = {}  # how often each was not known, where that is not believed yet
        self._doubted_at: deque[float] = deque(maxlen=MOST_DOUBTED)
        self._again_at: dict[Hashable, float] = {}  # of those that were asked for in vain
        self._blocked: set[str] = set()  # topics
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="schemas", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end. A request that it waits for ends with the process."""
        with self._change:
            self._is_stopping = True
            self._change.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, `timeout` seconds at most."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout))
        self._close()

    def dead_threads(self) -> list[str]:
        """Return the name of the thread if it ended unexpectedly."""
        ended = self._thread.ident is not None and not self._thread.is_alive()
        return [self._thread.name] if ended and not self._is_stopping else []

    def want(self, wanted: Mapping[Hashable, frozenset[str]]) -> None:
        """Say which schemas are waited for now, each with the topics that wait. What is no longer wanted blocks nothing."""
        with self._change:
            if wanted == self._wanted:
                return
            self._wanted = dict(wanted)
            for schema in self._again_at.keys() - wanted.keys():
                self._forget(schema)
            self._unblock()
            self._change.notify_all()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._is_stopping and (seconds := self._seconds_to_wait()) > 0:
                    self._change.wait(seconds)
                if self._is_stopping:
                    return
                due = self._due()
            self.fetch(due)

    def _missing(self) -> list[Hashable]:
        return [schema for schema in self._wanted if not self.book.has(schema)]

    def _due(self) -> list[Hashable]:
        now = self._clock()
        return [schema for schema in self._missing() if self._again_at.get(schema, now) <= now]

    def _seconds_to_wait(self) -> float:
        now = self._clock()
        return min((self._again_at.get(schema, now) - now for schema in self._missing()), default=_IDLE_SECONDS)

    def fetch(self, schemas: list[Hashable]) -> None:
        """Ask for these schemas, one after the other. Those that the registry does not give block their topics."""
        for schema in schemas:
            if self._is_stopping:
                return
            try:
                answer = self.book.add(schema, believes_unknown=not self._may_doubt(schema))
            except RegistryUnavailable as error:
                self._count(SchemaAnswer.UNAVAILABLE)
                self._failed(schema, error)
                continue
            with self._change:
                self._failures.pop(schema, None)
                if answer is None:
                    self._doubt(schema)
                else:
                    self._forget(schema)
                self._unblock()
            if answer is not None:
                self._count(answer)
                level = logging.INFO if answer is SchemaAnswer.FOUND else logging.WARNING
                log.log(level, "schema %s", answer.value, extra={"schema": str(schema)})

    def _failed(self, schema: Hashable, error: RegistryUnavailable) -> None:
        """Block the topics that wait for a schema, until it is asked for again."""
        with self._change:
            topics = self._wanted.get(schema, frozenset())
            if not topics:
                return
            count = self._failures[schema] = self._failures.get(schema, 0) + 1
            delay = self._backoff.delay(count)
            self._again_at[schema] = self._clock() + delay
            for topic in topics:
                self._blocked.add(topic)
                self._status.block(Block(topic, BlockReason.REGISTRY), f"{schema}: {error}", retry_in=delay)

    def _may_doubt(self, schema: Hashable) -> bool:
        """Return whether it is not believed yet that the registry does not know a schema."""
        with self._change:  # the main loop forgets what it no longer wants
            if schema in self._doubts:
                return self._doubts[schema] < len(ASK_AGAIN_SECONDS)
            times = self._doubted_at
            return len(times) < MOST_DOUBTED or self._clock() - times[0] >= _MINUTE

    def _doubt(self, schema: Hashable) -> None:
        """Let a schema that the registry does not know be asked for again."""
        if schema not in self._wanted:
            return
        count = self._doubts.get(schema, 0)
        if count == 0:
            self._doubted_at.append(self._clock())
        self._again_at[schema] = self._clock() + ASK_AGAIN_SECONDS[count]
        self._doubts[schema] = count + 1

    def _forget(self, schema: Hashable) -> None:
        """Forget what was asked in vain."""
        for found in (self._failures, self._doubts, self._again_at):
            found.pop(schema, None)

    def _unblock(self) -> None:
        """Unblock the topics that wait for no schema that the registry did not give."""
        waiting = {topic for schema in self._failures for topic in self._wanted.get(schema, ())}
        for topic in self._blocked - waiting:
            self._status.unblock(Block(topic, BlockReason.REGISTRY))
        self._blocked &= waiting
