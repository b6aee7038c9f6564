"""Which shard a key goes to: jump consistent hash of the key. ops/records.md has test vectors for other languages.

The hash is that of Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014). With one shard more, one
key in n + 1 moves, and each that moves goes to the new shard.
"""

import hashlib
from typing import Final

_MASK: Final = 2**64 - 1
_MULTIPLIER: Final = 2862933555777941757  # of the paper's linear congruential generator
_ONE: Final = float(1 << 31)


def jump(number: int, shards: int) -> int:
    """Return the shard, from 0, of a number of 64 bits; `shards` is 1 or more."""
    shard, following = -1, 0
    while following < shards:
        shard = following
        number = (number * _MULTIPLIER + 1) & _MASK
        following = int((shard + 1) * (_ONE / ((number >> 33) + 1)))
    return shard


def number_of(key: str) -> int:
    """Return the number of a vector's key: the first eight bytes, big-endian, of SHA-256 of its UTF-8."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])


def shard_of(key: str, shards: int) -> int:
    """Return the place, from 0, of the key's shard in a list of so many."""
    return jump(number_of(key), shards)
