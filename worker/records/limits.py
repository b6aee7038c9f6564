"""The limits of PutVectors on one vector, as the service documents them ("Upload vectors", PutVectors)."""

from typing import Final

KEY_MAX_CHARACTERS: Final = 1024
METADATA_MAX_BYTES: Final = 40 * 1024
FILTERABLE_MAX_BYTES: Final = 2 * 1024
FILTERABLE_MAX_KEYS: Final = 10
