"""What a record costs to decode in other shapes, envelopes and forms, beside the service's own shape: `python -m tests.bench.shapes`.

It prints microseconds of CPU a record, each the median of interleaved rounds of one run, and their ratio to the service's own
shape with the vector in the same form.
"""

import argparse
import base64
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.bench.data import Vector
from tests.support.app import settings
from worker.app.decoders import decoder_of
from worker.records.decode import Put
from worker.records.formats.contract import Headers
from worker.records.target import Target
from worker.settings.tables import Route

SIZES: Final = (128, 1536)
RECORDS: Final = 100
ROUNDS: Final = 15
OWN: Final = "own shape, list of numbers"
_FLAT: Final = {"key": "id", "vector": "embedding", "metadata": ["title", "tags"]}
_SCHEMA: Final = {
    "type": "struct",
    "fields": [{"field": name, "type": "string", "optional": False} for name in ("id", "embedding", "title", "tags")],
}
_EVENT: Final = {"specversion": "1.0", "id": "e", "source": "/bench", "type": "embedded", "subject": "s"}

Make = Callable[[str, Vector], Any]


class Shape(NamedTuple):
    """A way to publish a record: what the value is, its encoding, what [records] says of it, and what it is compared with."""

    make: Make
    records: Mapping[str, Any] = {}
    beside: str = OWN
    encode: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()
    headers: Headers = ()


def _numbers(vector: Vector) -> list[float]:
    return list(vector.astype(float).tolist())


def _text(vector: Vector) -> str:
    return json.dumps(_numbers(vector), separators=(",", ":"))


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.tobytes()).decode()


def _own(key: str, vector: Any) -> dict[str, Any]:
    return {"key": key, "data": {"float32": vector}, "metadata": {"title": f"title of {key}", "tags": ["a", "b"]}}


def _flat(key: str, vector: Any) -> dict[str, Any]:
    return {"id": key, "embedding": vector, "title": f"title of {key}", "tags": ["a", "b"]}


def _change(key: str, vector: Any) -> dict[str, Any]:
    return {"before": None, "after": _flat(key, vector), "source": {"table": "docs"}, "op": "c", "ts_ms": 1}


def _connect(key: str, vector: Any) -> dict[str, Any]:
    return {"schema": _SCHEMA, "payload": _flat(key, vector)}


def _debezium(key: str, vector: Any) -> dict[str, Any]:
    return {"schema": _SCHEMA, "payload": _change(key, vector)}


_OWN_64: Final = "own shape, base64"
_OWN_RAW: Final = "own shape, MessagePack bytes"
_PACK: Final = msgspec.msgpack.encode

SHAPES: Final[dict[str, Shape]] = {
    OWN: Shape(lambda key, vector: _own(key, _numbers(vector))),
    _OWN_64: Shape(lambda key, vector: _own(key, _base64(vector)), beside=_OWN_64),
    _OWN_RAW: Shape(lambda key, vector: _own(key, vector.tobytes()), beside=_OWN_RAW, encode=_PACK),
    "flat, list of numbers": Shape(lambda key, vector: _flat(key, _numbers(vector)), {"fields": _FLAT}),
    "flat, base64": Shape(lambda key, vector: _flat(key, _base64(vector)), {"fields": _FLAT}, _OWN_64),
    "flat, text as pgvector prints it": Shape(lambda key, vector: _flat(key, _text(vector)), {"fields": _FLAT}),
    "flat, MessagePack bytes": Shape(lambda key, vector: _flat(key, vector.tobytes()), {"fields": _FLAT}, _OWN_RAW, _PACK),
    "flat, base64 of float64": Shape(
        lambda key, vector: _flat(key, base64.b64encode(vector.astype("<f8").tobytes()).decode()),
        {"fields": _FLAT, "vector_bytes": "float64-le"},
        _OWN_64,
    ),
    "a vector alone, key and metadata in headers": Shape(
        lambda _, vector: vector.tobytes(),
        {"fields": {"key": "$header.id", "vector": "$kafka.value", "metadata": ["$header.title"]}},
        _OWN_RAW,
        lambda value: value,
        [("id", b"key-1"), ("title", b"title of key-1")],
    ),
    "nested, list of numbers": Shape(
        lambda key, vector: {"doc": {"id": key, "parts": [{"vector": _numbers(vector)}]}, "meta": {"title": "x"}},
        {"fields": {"key": "doc.id", "vector": "doc.parts[0].vector", "metadata": "meta"}},
    ),
    "key of two parts": Shape(
        lambda key, vector: {"tenant": "t", "n": 17, "key": key, "embedding": _numbers(vector)},
        {"fields": {"key": "{tenant}/{n}/{key}", "vector": "embedding"}, "key_values": "stringify"},
    ),
    "Kafka Connect, flat": Shape(lambda key, vector: _connect(key, _numbers(vector)), {"envelope": "connect", "fields": _FLAT}),
    "Debezium, flat": Shape(lambda key, vector: _change(key, _numbers(vector)), {"envelope": "debezium", "fields": _FLAT}),
    "Debezium in schema and payload, text": Shape(
        lambda key, vector: _debezium(key, _text(vector)), {"envelope": "debezium", "fields": _FLAT}
    ),
    "CloudEvent, structured": Shape(
        lambda key, vector: {**_EVENT, "data": _own(key, _numbers(vector))}, {"envelope": "cloudevents"}
    ),
    "CloudEvent, binary": Shape(
        lambda key, vector: _own(key, _numbers(vector)), {"envelope": "cloudevents"}, headers=[("ce_specversion", b"1.0")]
    ),
}  # fmt: skip


def costs(size: int, records: int, rounds: int, names: Sequence[str] = tuple(SHAPES)) -> dict[str, list[float]]:
    """Return microseconds of CPU a record, of each round."""
    rng = np.random.default_rng(size)
    vectors = rng.standard_normal((records, size)).astype(np.float32)
    found: dict[str, list[float]] = {name: [] for name in names}
    runs = {name: _run_of(SHAPES[name], size, vectors) for name in names}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            run()
            found[name].append((time.process_time() - began) / records * 1e6)
    return found


def _run_of(shape: Shape, size: int, vectors: Any) -> Callable[[], None]:
    """Return what decodes all records of a shape. Every one must be a put."""
    route = Route(topic="vectors", index="bench", records=dict(shape.records))
    decode = decoder_of(Target("bench", size, "cosine"), settings(routes=(route,)), "vectors").decode
    values = [shape.encode(shape.make(f"key-{number}", vector)) for number, vector in enumerate(vectors)]
    assert all(isinstance(decode(None, value, shape.headers), Put) for value in values)

    def run() -> None:
        for value in values:
            decode(None, value, shape.headers)

    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.shapes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--records", type=int, default=RECORDS)
    given = parser.parse_args()
    measured = {size: costs(size, given.records, given.rounds) for size in SIZES}
    table = Table("shape", *[f"µs a record, {size}" for size in SIZES], *[f"beside its own, {size}" for size in SIZES])
    for name, shape in SHAPES.items():
        medians = [statistics.median(measured[size][name]) for size in SIZES]
        beside = [_ratio(measured[size], name, shape.beside) for size in SIZES]
        table.add_row(name, *[f"{median:.1f}" for median in medians], *[f"{ratio:.2f}" for ratio in beside])
    Console(highlight=False).print(table)


def _ratio(measured: Mapping[str, Sequence[float]], name: str, beside: str) -> float:
    return statistics.median(one / other for one, other in zip(measured[name], measured[beside], strict=True))


if __name__ == "__main__":
    main()
