"""The choices of how records are read. The settings and the decoder name them from here."""

from typing import Literal

Format = Literal["auto", "json", "msgpack"]
KeyFormat = Literal["utf8", "json"]
MetadataValues = Literal["strict", "stringify"]
Tombstones = Literal["dead-letter", "delete", "ignore"]
Envelope = Literal["none", "connect", "debezium", "cloudevents"]
KeyValues = Literal["strict", "stringify"]
VectorBytes = Literal["float32-le", "float32-be", "float64-le", "float64-be", "float16-le"]
Suspect = Literal["write", "dead-letter"]
Many = Literal["reject", "split"]
