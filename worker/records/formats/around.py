"""What is around the value of a message, the Kafka key and the headers, and the parts of a record that are there."""

from typing import Final, NamedTuple

from worker.errors import Reason, RecordError
from worker.records.formats import connect_schema
from worker.records.formats.connect_schema import Logical
from worker.records.formats.contract import Headers
from worker.records.formats.paths import Path, Source, header_of
from worker.records.keys import Keys

DELETES: Final = frozenset({"true", "d"})


class Around(NamedTuple):
    """What is around a record: the Kafka key, the headers, and which fields the schema of its envelope says more of."""

    key: bytes | None
    headers: Headers
    logical: Logical = connect_schema.NONE


def text_around(path: Path, around: Around, keys: Keys) -> str | None:
    """Return what a path leads to that is not one into the value, None where it is not there. Raises `RecordError`.

    Of several headers of a name the last one counts. An attribute of a CloudEvent is a header, too.
    """
    if path.source is Source.KAFKA_KEY:
        return None if around.key is None else keys.from_kafka(around.key)
    wanted = header_of(path.name) if path.source is Source.ATTRIBUTE else path.name
    for name, value in reversed(around.headers):
        if name == wanted:
            try:
                return None if value is None else value.decode()
            except UnicodeDecodeError as error:
                raise RecordError(Reason.MALFORMED, f"the header {wanted} is not UTF-8: {error.reason}") from None
    return None


def key_around(path: Path, around: Around, keys: Keys) -> str:
    """Return a part of the key that such a path leads to. Raises `RecordError`."""
    text = text_around(path, around, keys)
    if text is None:
        raise no_key(path)
    if text.startswith("\0"):  # of the Kafka key, `keys` refuses it
        raise RecordError(
            Reason.KEY, f"{path.text} begins with 0x00: it is binary, or has a schema registry's prefix, and is no text"
        )
    return text


def says_delete(path: Path, around: Around, keys: Keys) -> bool:
    """Return whether what such a path leads to deletes the record's key."""
    text = text_around(path, around, keys)
    return text in DELETES or (text == "1" and path.source is not Source.KAFKA_KEY)


def no_key(path: Path) -> RecordError:
    """Return the error of a part of the key that is not there."""
    return RecordError(Reason.KEY, f"there is no {path.text}, or it is null; records.fields.key needs it")
