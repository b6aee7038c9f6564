"""What is around the value of a message, the Kafka key and the headers, and the parts of a record that are there."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from worker.errors import Reason, RecordError
from worker.records.formats import connect_schema
from worker.records.formats.connect_schema import Logical
from worker.records.formats.contract import Headers
from worker.records.formats.paths import Path, Source, header_of
from worker.records.formats.shared import by_name, header_text
from worker.records.keys import Keys
from worker.records.limits import KEY_MAX_CHARACTERS
from worker.records.target import LIMIT_SOURCE

# In quotes too, as Kafka Connect's JsonConverter writes the text of a header.
_DELETES: Final = re.compile(r'\s*("?)(?:true|d|delete|1)\1\s*', re.ASCII | re.IGNORECASE)


class Around(NamedTuple):
    """What is around a record: the Kafka key, the headers, and which fields the schema of its envelope says more of."""

    key: bytes | None
    headers: Headers
    logical: Logical = connect_schema.NONE

    def by_name(self) -> "Around":
        """Return what is around it for many looks at the headers."""
        headers = by_name(self.headers)
        return self if headers is self.headers else self._replace(headers=headers)


def looks_often(paths: Iterable[Path]) -> bool:
    """Return whether more than one of the paths leads to a header."""
    return sum(path.source in (Source.HEADER, Source.ATTRIBUTE) for path in paths) > 1


def text_around(path: Path, around: Around, keys: Keys) -> str | None:
    """Return what a path leads to that is not one into the value, None where it is not there. Raises `RecordError`.

    Of several headers of a name the last one counts. An attribute of a CloudEvent is a header, too.
    """
    if path.source is Source.KAFKA_KEY:
        return None if around.key is None else keys.from_kafka(around.key)
    return header_text(around.headers, header_of(path.name) if path.source is Source.ATTRIBUTE else path.name)


def key_around(path: Path, around: Around, keys: Keys) -> str:
    """Return a part of the key that such a path leads to. Raises `RecordError`."""
    text: str | None
    if path.source is Source.KAFKA_KEY and around.key is not None:
        text = keys.of_message(around.key, around.headers)
    else:
        text = text_around(path, around, keys)
    if text is None:
        raise no_key(path)
    if len(text) > KEY_MAX_CHARACTERS:
        raise RecordError(
            Reason.KEY,
            f"{path.text} has {len(text)} characters; a key has at most {KEY_MAX_CHARACTERS} ({LIMIT_SOURCE})",
        )
    if text.startswith("\0"):  # of the Kafka key, `keys` refuses it
        raise RecordError(
            Reason.KEY, f"{path.text} begins with 0x00: it is binary, or has a schema registry's prefix, and is no text"
        )
    return text


def says_delete(path: Path, around: Around, keys: Keys) -> bool:
    """Return whether what such a path leads to deletes the record's key. A Kafka key that is 1 is a key."""
    text = text_around(path, around, keys)
    return text is not None and is_delete(text) and not ("1" in text and path.source is Source.KAFKA_KEY)


def is_delete(text: str) -> bool:
    """Return whether a text says that the record's key is deleted: true, d, delete or 1, in any case, with or without quotes."""
    return _DELETES.fullmatch(text) is not None


def no_key(path: Path) -> RecordError:
    """Return the error of a part of the key that is not there."""
    return RecordError(Reason.KEY, f"there is no {path.text}, or it is null; records.fields.key needs it")
