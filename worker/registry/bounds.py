"""What a schema may be, and what it may add to a body.

Its names and symbols are written with each value, so that a few bytes could become gigabytes.
"""

import json
from typing import Any, Final

from worker.registry.client import UnusableSchema

MOST_DEPTH: Final = 100
"""Of records in records, in a body and in a schema of Avro."""
MOST_NAME: Final = 1_000
"""Characters of a name or a symbol; of Protobuf with all that is around it."""
MOST_ADDED: Final = 8 << 20
"""Bytes of names, symbols and places of decimals that one body may become longer by. No request of the service is longer."""
TOO_LONG: Final = f"with the names and symbols of its schema it is more than {MOST_ADDED} bytes longer"

_MOST_JSON_DEPTH: Final = 3 * MOST_DEPTH


def parsed_json(text: str) -> Any:
    """Return the JSON of an Avro schema. ValueError if it is none.

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
                _check_names(each)
        inside = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [each for values in inside for each in values]
    return found


def _check_names(schema: dict[str, Any]) -> None:
    aliases, symbols = (found if isinstance(found := schema.get(each), list) else [] for each in ("aliases", "symbols"))
    for name in (schema.get("name"), schema.get("namespace"), *aliases, *symbols):
        if isinstance(name, str) and len(name) > MOST_NAME:
            raise UnusableSchema(f"it has a name of {len(name)} characters; at most {MOST_NAME} are read")
