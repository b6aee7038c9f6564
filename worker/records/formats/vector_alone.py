"""Values that are a vector and nothing else: its bytes, as numpy's `tobytes()` makes them (`records.fields.vector = "$kafka.value"`).

The value is not parsed. So the key is the Kafka key or in the headers, and the metadata is in the headers. What the bytes
hold, `records.vector_bytes` says. A vector as text, or in base64, is not read: bytes may look like text, and nothing is
guessed from a length.
"""

from functools import partial
from typing import Final

from worker.errors import Reason, RecordError
from worker.records.formats.around import Around, key_around, looks_often, says_delete, text_around
from worker.records.formats.contract import Headers, Metadata, Operation, Options, Record
from worker.records.formats.paths import WHOLE_VALUE, Path
from worker.records.formats.vector_bytes import unpacker

NUMPY: Final = b"\x93NUMPY"
"""What numpy's `save` writes before an array."""


class VectorAlone:
    """Reads the messages of one route whose values are the bytes of vectors."""

    def __init__(self, options: Options) -> None:
        metadata = options.shape.metadata
        assert not isinstance(metadata, Path)  # noqa: S101 - the shape has a path for each name
        self._template = options.shape.key
        self._metadata = metadata or ()
        self._delete = options.shape.delete
        self._keys = options.keys
        self._looks_often = looks_often(options.shape.paths)
        self._unpack = unpacker(options.vector_bytes)

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        """Return what the message says. Raises `RecordError`."""
        around = self._around(key, headers)
        if self._delete is not None and says_delete(self._delete, around, self._keys):
            return Record(self._key(around), operation=Operation.DELETE)
        if value.startswith(NUMPY):
            raise RecordError(Reason.MALFORMED, f"{WHOLE_VALUE.text} is not the bytes of a vector alone")
        vector = self._unpack(value, WHOLE_VALUE.text)
        return Record(self._key(around), vector, partial(self._texts, around) if self._metadata else None)

    def key(self, key: bytes | None, headers: Headers) -> str | None:
        """Return the key that the settings lead to, None where they leave it to the Kafka key. Raises `RecordError`."""
        return self._key(self._around(key, headers))

    def _around(self, key: bytes | None, headers: Headers) -> Around:
        around = Around(key, headers)
        return around.by_name() if self._looks_often else around

    def _key(self, around: Around) -> str | None:
        if self._template is None:
            return None
        return "".join(
            part if isinstance(part, str) else key_around(part, around, self._keys) for part in self._template.parts
        )

    def _texts(self, around: Around) -> Metadata | None:
        """Return the metadata. What is not there is left out."""
        found: Metadata = {}
        for name, path in self._metadata:
            text = text_around(path, around, self._keys)
            if text is not None:
                found[name] = text
        return found or None
