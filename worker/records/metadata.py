"""The metadata of a record: numbers and booleans as text where that is set, the service's limits, and its JSON."""

from typing import Final

import msgspec
import orjson

from worker.errors import Reason, RecordError
from worker.records.choices import MetadataValues
from worker.records.formats.contract import AnyMetadata, LooseMetadata, Metadata
from worker.records.limits import FILTERABLE_MAX_BYTES, FILTERABLE_MAX_KEYS, METADATA_MAX_BYTES
from worker.records.target import LIMIT_SOURCE, Target

_SHOWN_KEYS: Final = 3
_SHOWN_CHARACTERS: Final = 100  # of a name in a message, which becomes a header of the dead letter

_encode_scalar: Final = msgspec.json.Encoder().encode


class MetadataWriter:
    """Checks and writes the metadata of one route's records."""

    def __init__(self, target: Target, metadata_values: MetadataValues) -> None:
        self._non_filterable = target.non_filterable_metadata_keys
        self._is_loose = metadata_values == "stringify"

    def member(self, metadata: AnyMetadata) -> bytes:
        """Return `,"metadata":{...}` for the record's fragment, empty where it has none. Raises `RecordError`."""
        if metadata is None:
            return b""
        if not isinstance(metadata, dict):
            return self.member(metadata())
        strict: Metadata = stringified(metadata) if self._is_loose else metadata  # type: ignore[arg-type, assignment]  # it is of the kind that the setting says
        text = orjson.dumps(strict)
        # The text is longer than what the limits count, so most metadata need not be counted.
        if len(text) > FILTERABLE_MAX_BYTES or len(strict) > FILTERABLE_MAX_KEYS:
            self._check_limits(strict)
        return b',"metadata":' + text

    def _check_limits(self, metadata: Metadata) -> None:
        """Count sizes as UTF-8 bytes of keys and values, without quotes and commas."""
        total = filterable = filterable_keys = 0
        for key, value in metadata.items():
            texts = (value,) if isinstance(value, str) else value
            size = len(key.encode()) + sum(len(text.encode()) for text in texts)
            total += size
            if key not in self._non_filterable:
                filterable += size
                filterable_keys += 1
        if total > METADATA_MAX_BYTES:
            raise _beyond_limit(f"metadata has {total} bytes", f"{METADATA_MAX_BYTES} bytes a vector")
        if filterable > FILTERABLE_MAX_BYTES:
            found = f"filterable metadata has {filterable} bytes"
            raise _beyond_limit(found, f"{FILTERABLE_MAX_BYTES} bytes a vector", self._largest(metadata))
        if filterable_keys > FILTERABLE_MAX_KEYS:
            found = f"metadata has {filterable_keys} filterable keys"
            raise _beyond_limit(found, f"{FILTERABLE_MAX_KEYS}", self._largest(metadata))

    def _largest(self, metadata: Metadata) -> str:
        """Return which filterable keys are the largest, and how they need not be filterable."""
        sizes = {
            key: len(value) if isinstance(value, str) else sum(map(len, value))
            for key, value in metadata.items()
            if key not in self._non_filterable
        }
        largest = ", ".join(shown(key) for key in sorted(sizes, key=lambda key: -sizes[key])[:_SHOWN_KEYS])
        return (
            f"; the largest are {largest}; keys that no query filters by can be declared when an index is made "
            "(nonFilterableMetadataKeys), not later"
        )


def stringified(metadata: LooseMetadata) -> Metadata:
    """Return the metadata with numbers and booleans as their JSON text, and without nulls. Raises `RecordError`."""
    return {
        key: [_text(key, element) for element in value if element is not None]
        if isinstance(value, list)
        else _text(key, value)
        for key, value in metadata.items()
        if value is not None
    }


def scalar_text(key: str, value: float) -> str:
    """Return the JSON text of a number or a boolean. Raises `RecordError` for NaN and the infinities, which have none."""
    text = _encode_scalar(value).decode()
    if text == "null":
        raise RecordError(Reason.METADATA, f"metadata {shown(key)} is {value!r}, which JSON cannot express")
    return text


def shown(name: str) -> str:
    """Return a name of a record's metadata for a message: quoted, and cut."""
    return repr(name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}…")


def _text(key: str, value: str | float) -> str:
    return value if isinstance(value, str) else scalar_text(key, value)


def _beyond_limit(found: str, allowed: str, advice: str = "") -> RecordError:
    return RecordError(Reason.METADATA, f"{found}; allowed are {allowed} ({LIMIT_SOURCE}){advice}")
