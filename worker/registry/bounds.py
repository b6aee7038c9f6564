"""What a schema may be, and what it may add to a body.

Its names and symbols are written with each value, so that a few bytes could become gigabytes.

What reading does not need makes no schema of Avro unusable: a registry accepts schemas whose defaults or decimals are wrong,
and Kafka Connect writes them.
"""

import json
import math
from typing import Any, Final, TypeGuard

from worker.registry.client import UnusableSchema

MOST_DEPTH: Final = 100
"""Of records in records, in a body and in a schema of Avro."""
MOST_NAME: Final = 1_000
"""Characters of a name or a symbol; of Protobuf with all that is around it."""
MOST_ADDED: Final = 8 << 20
"""Bytes of names, symbols and places of decimals that one body may become longer by. No request of the service is longer."""
TOO_LONG: Final = f"with the names and symbols of its schema it is more than {MOST_ADDED} bytes longer"

_MOST_JSON_DEPTH: Final = 3 * MOST_DEPTH
_MOST_SIZE: Final = 2**31  # of a fixed: Avro's sizes are of 32 bits


def parsed_json(text: str) -> Any:
    """Return the JSON of an Avro schema, without what reading does not need. ValueError if it is none.

    Defaults are for readers whose schema is another one. A decimal that is not valid is what is below it, as in Java's Avro.

    `UnusableSchema` if it is nested so deep that parsing it may need more stack than there is, or has a name that is too long.
    """
    found = json.loads(text)
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > _MOST_JSON_DEPTH:
            raise UnusableSchema(f"the schema is nested more than {_MOST_JSON_DEPTH} levels deep")
        for each in level:
            if isinstance(each, dict):
                each.pop("default", None)
                if each.get("logicalType") == "decimal" and not _is_decimal(each):
                    del each["logicalType"]
                _check_names(each)
        inside = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [each for values in inside for each in values]
    return found


def _check_names(schema: dict[str, Any]) -> None:
    aliases, symbols = (found if isinstance(found := schema.get(each), list) else [] for each in ("aliases", "symbols"))
    for name in (schema.get("name"), schema.get("namespace"), *aliases, *symbols):
        if isinstance(name, str) and len(name) > MOST_NAME:
            raise UnusableSchema(f"it has a name of {len(name)} characters; at most {MOST_NAME} are read")


def _is_decimal(schema: dict[str, Any]) -> bool:
    """Return whether the scale and the precision of a decimal are valid. It can be read without a precision."""
    scale, precision, size = schema.get("scale", 0), schema.get("precision"), schema.get("size")
    if not _is_whole(scale) or scale < 0:
        return False
    if precision is None:
        return True
    if not _is_whole(precision) or precision < max(scale, 1):
        return False
    if schema.get("type") != "fixed":
        return True
    return _is_whole(size) and 0 < size < _MOST_SIZE and precision <= math.floor(math.log10(2) * (8 * size - 1))


def _is_whole(value: object) -> TypeGuard[int]:
    return type(value) is int  # true and false are of int too
