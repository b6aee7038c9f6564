"""What a record in Avro or Protobuf costs to decode, beside the same record in the service's own shape.

    python -m tests.bench.schemas [--rounds N] [--records N]

Schemas are here already, as they are but for the first record of each. Rounds are interleaved, and each figure is the median.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.bench import data
from tests.support.registry import AVRO, OF_RECORD, PROTOBUF, FakeSource, avro, by_id, prefix
from worker.records.decode import Decoder
from worker.records.target import Target
from worker.registry.book import Book
from worker.registry.client import SchemaText

SIZES: Final = (128, 1536)
TEXTS: Final = {"title": "title of a record", "lang": "de"}


def _protobuf(key: str, vector: data.Vector) -> bytes:
    def field(number: int, content: bytes) -> bytes:
        length, size = bytearray(), len(content)
        while size > 0x7F:
            length.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes([number << 3 | 2, *length, size]) + content

    texts = b"".join(field(3, field(1, name.encode()) + field(2, text.encode())) for name, text in TEXTS.items())
    return prefix(2) + OF_RECORD + field(1, key.encode()) + field(2, field(1, vector.tobytes())) + texts


def _avro(key: str, vector: data.Vector) -> bytes:
    return prefix(1) + avro(AVRO, {"key": key, "data": {"float32": vector.tolist()}, "metadata": TEXTS})


def _json(key: str, vector: data.Vector) -> bytes:
    return json.dumps({"key": key, "data": {"float32": vector.astype(float).tolist()}, "metadata": TEXTS}).encode()


def _msgpack(key: str, vector: data.Vector) -> bytes:
    return msgspec.msgpack.encode({"key": key, "data": {"float32": vector.tobytes()}, "metadata": TEXTS})


ENCODINGS: Final[Mapping[str, Callable[[str, data.Vector], bytes]]] = {
    "JSON, the fixed shape": _json,
    "MessagePack, raw float32": _msgpack,
    "Avro": _avro,
    "Protobuf": _protobuf,
}


def _book() -> Book:
    source = FakeSource()
    source.schemas = {by_id(1): SchemaText("AVRO", json.dumps(AVRO)), by_id(2): SchemaText("PROTOBUF", PROTOBUF)}
    book = Book(source)
    for schema in source.schemas:
        book.add(schema)
    return book


def measured(size: int, rounds: int, records: int) -> dict[str, float]:
    """Return the CPU of one record in microseconds, by encoding."""
    decode = Decoder(Target("docs", size, "cosine"), max_fragment_bytes=1 << 20, schemas=_book()).decode
    vectors = np.random.default_rng(size).standard_normal((records, size)).astype(np.float32)
    values = {
        name: [encode(f"key-{place}", vector) for place, vector in enumerate(vectors)]
        for name, encode in ENCODINGS.items()
    }
    costs: dict[str, list[float]] = {name: [] for name in values}
    for number in range(rounds + 1):
        for name, found in values.items():
            cost = _cost(decode, found)
            if number:  # the first round loads what the others find loaded
                costs[name].append(cost / records * 1e6)
    return {name: statistics.median(found) for name, found in costs.items()}


def _cost(decode: Callable[..., object], values: Sequence[bytes]) -> float:
    begun = time.process_time()
    for value in values:
        decode(None, value, ())
    return time.process_time() - begun


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.schemas", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--records", type=int, default=500)
    options = parser.parse_args()
    table = Table("decoded from", *(f"{size}: µs a record, of JSON's" for size in SIZES))
    found = {size: measured(size, options.rounds, options.records) for size in SIZES}
    for name in ENCODINGS:
        cells = [f"{costs[name]:.1f}   {costs[name] / next(iter(costs.values())):.2f}" for costs in found.values()]
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
