"""The index that records are checked against, and the service's limits for one vector.

The limits are those that the service documents for PutVectors ("Upload vectors"). A record is refused here only where the
service could never accept it. Where the documentation does not say how a size is measured (metadata), the reading that
refuses least is applied, and the service decides.
"""

from typing import Final

import msgspec

KEY_MAX_CHARACTERS: Final = 1024
METADATA_MAX_BYTES: Final = 40 * 1024
FILTERABLE_MAX_BYTES: Final = 2 * 1024
FILTERABLE_MAX_KEYS: Final = 10
LIMIT_SOURCE: Final = "limit of PutVectors"


class Target(msgspec.Struct, frozen=True):
    """The index that a route writes to, as far as records are checked against it.

    `dimension` is the count of numbers in a vector; `distance_metric` is "cosine" or "euclidean".
    """

    index: str
    dimension: int
    distance_metric: str
    non_filterable_metadata_keys: frozenset[str] = frozenset()
