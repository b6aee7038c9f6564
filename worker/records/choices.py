"""The choices of how records are read. The settings and the decoder name them from here."""

from typing import Literal

Format = Literal["auto", "json", "msgpack"]
KeyFormat = Literal["utf8", "json"]
MetadataValues = Literal["strict", "stringify"]
Tombstones = Literal["dead-letter", "delete", "ignore"]
Many = Literal["reject", "split"]
