"""What a vector is called while replays are decided: its key, and with it its index where a header or field chooses that.

Two tenants may each have a vector of one key. A newer version of the one says nothing of the other.
"""

from collections.abc import Sequence

from worker.app.decoders import options_of
from worker.app.routers import DEFAULT
from worker.errors import RecordError
from worker.ports import Message
from worker.records.formats.contract import Headers
from worker.records.formats.shared import around_of
from worker.records.routing_value import reader_of
from worker.settings.tables import Settings
from worker.tools.dlq.elements import Elements
from worker.tools.dlq.letters import VectorKeys


class Names:
    """Names vectors by the routes of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._keys = VectorKeys(settings)
        self.elements = Elements(settings)
        by_value = [route for route in settings.routes if route.indexes]
        self._readers = {
            route.topic: (
                reader_of(
                    route.index_by, options_of(settings.records_of(route.topic)), self._keys.schemas_of(route.topic)
                ),
                route.indexes,
            )
            for route in by_value
        }

    def of(self, topic: str, message: Message) -> Sequence[tuple[int | None, str | None]]:
        """Return the names of the vectors that a message of a source topic is about, each with the place of its record.

        The place is None where the message is one record, the name where it cannot be read.
        """
        pieces = self.elements.all_of(topic, message.value)
        if pieces is None:
            return ((None, self.of_parts(topic, message.key, message.value, message.headers)),)
        key, headers = around_of(message)
        return [(place, self.of_parts(topic, key, piece, headers)) for place, piece in enumerate(pieces)]

    def of_element(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, element: int | None
    ) -> str | None:
        """Return the name of a record that may be one of several in its message."""
        own = self.elements.own_value(topic, value, element)
        return self.of_parts(topic, key, own, headers) if element is None or own is not None else None

    def of_parts(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
        """Return likewise the name of a record in parts."""
        own = self._keys.of(topic, key, value, headers)
        if topic not in self._readers or own is None:
            return own
        read, indexes = self._readers[topic]
        try:
            text = read(key, value, headers)
        except RecordError:  # it was never written: what names its index is no text
            return None
        if text is None and not value:  # it was left out, or is a tombstone that names no index
            return None
        index = indexes.get(text or DEFAULT, indexes.get(DEFAULT))
        return f"{index}/{own}" if index else f"={text}/{own}"
