"""The JSON Schema of a record's value, for producers."""

from typing import Any

from worker.records.limits import FILTERABLE_MAX_BYTES, FILTERABLE_MAX_KEYS, KEY_MAX_CHARACTERS, METADATA_MAX_BYTES


def record_schema() -> dict[str, Any]:
    """Return the schema. What depends on the index (dimension, metric) or on bytes is said in words."""
    text_or_texts = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Vector record",
        "description": "The value of a Kafka message; unknown fields are ignored. A null value is a tombstone of the Kafka key.",
        "type": "object",
        "required": ["data"],
        "properties": {
            "key": {
                "description": "The vector's key; without one the Kafka key is taken.",
                "anyOf": [{"type": "string", "minLength": 1, "maxLength": KEY_MAX_CHARACTERS}, {"type": "null"}],
            },
            "data": {
                "type": "object",
                "required": ["float32"],
                "properties": {
                    "float32": {
                        "description": "As many finite float32 numbers as the index has dimensions; not all zero under cosine.",
                        "anyOf": [
                            {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 4096},
                            {"type": "string", "contentEncoding": "base64", "description": "Little-endian float32."},
                        ],
                    }
                },
            },
            "metadata": {
                "description": (
                    f"At most {METADATA_MAX_BYTES} bytes in all; of the filterable part at most {FILTERABLE_MAX_BYTES} bytes "
                    f"and {FILTERABLE_MAX_KEYS} keys."
                ),
                "anyOf": [{"type": "object", "additionalProperties": text_or_texts}, {"type": "null"}],
            },
        },
    }
