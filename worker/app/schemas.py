"""Asks the schema registry for the schemas that records wait for, on a thread of its own.

A registry that gives no answer, or denies, blocks the topics that wait (`registry`) until it answers. It is asked again after a
backoff. No record is at fault, and nothing is dead-lettered for it.
"""

import logging
import threading
import time
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

    def add(self, schema: Any, /) -> SchemaAnswer:
        """Ask the registry for a schema. Raises `RegistryUnavailable`."""


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
        self._change = threading.Condition()
        self._wanted: Mapping[Hashable, frozenset[str]] = {}
        self._failures: dict[Hashable, int] = {}  # failed attempts of each schema that is wanted
        self._again_at = 0.0
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
            new = wanted.keys() - self._wanted.keys()
            self._wanted = dict(wanted)
            self._failures = {schema: count for schema, count in self._failures.items() if schema in wanted}
            if new:
                self._again_at = 0.0
            self._unblock()
            self._change.notify_all()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._is_stopping and (seconds := self._seconds_to_wait()) > 0:
                    self._change.wait(seconds)
                if self._is_stopping:
                    return
                due = self._missing()
            self.fetch(due)

    def _missing(self) -> list[Hashable]:
        return [schema for schema in self._wanted if not self.book.has(schema)]

    def _seconds_to_wait(self) -> float:
        return self._again_at - self._clock() if self._missing() else _IDLE_SECONDS

    def fetch(self, schemas: list[Hashable]) -> None:
        """Ask for these schemas, one after the other. Those that the registry does not give block their topics."""
        longest = 0.0
        for schema in schemas:
            if self._is_stopping:
                return
            try:
                answer = self.book.add(schema)
            except RegistryUnavailable as error:
                self._count(SchemaAnswer.UNAVAILABLE)
                longest = max(longest, self._failed(schema, error))
            else:
                self._count(answer)
                level = logging.INFO if answer is SchemaAnswer.FOUND else logging.WARNING
                log.log(level, "schema %s", answer.value, extra={"schema": str(schema)})
                with self._change:
                    self._failures.pop(schema, None)
                    self._unblock()
        with self._change:
            self._again_at = self._clock() + longest

    def _failed(self, schema: Hashable, error: RegistryUnavailable) -> float:
        """Block the topics that wait for a schema, and return in how many seconds it is asked for again."""
        with self._change:
            topics = self._wanted.get(schema, frozenset())
            if not topics:
                return 0.0
            count = self._failures[schema] = self._failures.get(schema, 0) + 1
            delay = self._backoff.delay(count)
            for topic in topics:
                self._blocked.add(topic)
                self._status.block(Block(topic, BlockReason.REGISTRY), f"{schema}: {error}", retry_in=delay)
        return delay

    def _unblock(self) -> None:
        """Unblock the topics that wait for no schema that the registry did not give."""
        waiting = {topic for schema in self._failures for topic in self._wanted.get(schema, ())}
        for topic in self._blocked - waiting:
            self._status.unblock(Block(topic, BlockReason.REGISTRY))
        self._blocked &= waiting
