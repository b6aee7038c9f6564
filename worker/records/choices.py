"""The choices that the settings of records offer, each once."""

from typing import Literal

Format = Literal["auto", "json", "msgpack"]
KeyFormat = Literal["utf8", "json"]
MetadataValues = Literal["strict", "stringify"]
Tombstones = Literal["dead-letter", "delete", "ignore"]
