"""The one record that a dead letter is about, where its message has several (`records.many = "split"`)."""

from worker.app.several import cutter_of
from worker.deadletters.headers import DeadLetterHeaders
from worker.errors import RecordError
from worker.settings.tables import Settings


class Elements:
    """Cuts messages by the routes of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._cutters = {route.topic: cutter_of(route, settings) for route in settings.routes}

    def all_of(self, topic: str, value: bytes | None) -> list[bytes] | None:
        """Return the records of a message of a source topic, None where it is one itself, or cannot be cut."""
        cutter = self._cutters.get(topic)
        if cutter is None or value is None:
            return None
        try:
            pieces = cutter.cut(value)
        except RecordError:
            return None
        return None if pieces is None else [bytes(piece) for piece in pieces]

    def own_value(self, topic: str, value: bytes | None, element: int | None) -> bytes | None:
        """Return the bytes of the record at a place, the whole value for None; None where it is not there."""
        if element is None:
            return value
        pieces = self.all_of(topic, value)
        return pieces[element] if pieces is not None and element < len(pieces) else None

    def has(self, topic: str, value: bytes | None, element: int | None) -> bool:
        """Return whether the record at this place can be sent alone; what is no part of a message always can."""
        return element is None or (value is not None and self.alone(topic, value, element) is not None)

    def alone(self, topic: str, value: bytes, element: int) -> bytes | None:
        """Return a message that has this record alone, None where it cannot be cut out as it came."""
        cutter = self._cutters.get(topic)
        return None if cutter is None else cutter.only(value, element)


def element_of(told: DeadLetterHeaders) -> int | None:
    """Return the place of the one record that a dead letter is about, None where it is about its whole message.

    One that is for many records of its message is about all of it.
    """
    return told.element if told.elements == 1 else None
