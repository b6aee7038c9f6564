"""The index that records are checked against.

A record is refused only where the service could never accept it. Where the service's documentation does not say how a size
is measured (metadata), the reading that refuses least is applied, and the service decides.
"""

from typing import Final

import msgspec

LIMIT_SOURCE: Final = "limit of PutVectors"  # of `limits.py`, as messages name it


class Target(msgspec.Struct, frozen=True):
    """The index that a route writes to, as far as records are checked against it.

    `dimension` is the count of numbers in a vector; `distance_metric` is "cosine" or "euclidean".
    """

    index: str
    dimension: int
    distance_metric: str
    non_filterable_metadata_keys: frozenset[str] = frozenset()
