"""Half of a surrogate pair in JSON: an escape such as "\\ud83d" by itself, which is no text in any encoding.

msgspec refuses it wherever it is. Records are refused for it only in a string that counts, so it is replaced first.
"""

import re
from typing import Final

HALF_SAID: Final = "half of a surrogate pair (\\ud800 to \\udfff by itself), which no encoding has a form for"

# Any escape, and in the second group one that is half of a surrogate pair. Pairs are tried first.
_ESCAPE: Final = re.compile(
    rb"""(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2} | \\u(?![dD][89a-fA-F]) | \\[^u])
       | (\\u[dD][89a-fA-F][0-9a-fA-F]{2})""",
    re.VERBOSE | re.DOTALL,
)
_ANY_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")
HALF: Final = b"\xff" * 6  # as long as the escape that it replaces, and in no UTF-8


def without_halves(body: bytes) -> bytes:
    """Replace each half of a surrogate pair by bytes that are no UTF-8: a string that counts is refused for them."""
    if _ANY_HALF.search(body) is None:
        return body
    return _ESCAPE.sub(lambda escape: escape[1] or HALF, body)
