"""Records of every size and encoding, as the record batches that a broker hands out."""

import base64
import json
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from numpy.typing import NDArray

from worker.consumer.partition_records import PartitionRecords

BATCH_BYTES: Final = 1 << 20

Vector = NDArray[np.float32]


def _json17(key: str, vector: Vector) -> bytes:
    """As Python writes float32 values: up to 17 digits."""
    return json.dumps(_record(key, vector.astype(float).tolist())).encode()


def _json_short(key: str, vector: Vector) -> bytes:
    """Six significant digits, as many services round."""
    return json.dumps(_record(key, [float(f"{number:.6g}") for number in vector])).encode()


def _base64(key: str, vector: Vector) -> bytes:
    return json.dumps(_record(key, base64.b64encode(vector.tobytes()).decode())).encode()


def _msgpack_raw(key: str, vector: Vector) -> bytes:
    return msgspec.msgpack.encode(_record(key, vector.tobytes()))


def _record(key: str, vector: object) -> dict[str, Any]:
    return {"key": key, "data": {"float32": vector}, "metadata": {"title": f"title of {key}", "tags": ["a", "b"]}}


ENCODINGS: Final = MappingProxyType(
    {"json17": _json17, "json-short": _json_short, "base64": _base64, "msgpack-raw": _msgpack_raw}
)


def values(count: int, dimension: int, encoding: str) -> list[tuple[bytes, bytes]]:
    """Return (key, value) of so many records, the same in every run."""
    encode: Callable[[str, Vector], bytes] = ENCODINGS[encoding]
    rng = np.random.default_rng(dimension)
    vectors = rng.standard_normal((count, dimension)).astype(np.float32)
    return [(f"key-{n}".encode(), encode(f"key-{n}", vector)) for n, vector in enumerate(vectors)]


def batches(records: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the records as Kafka record batches of about a megabyte, as a fetch response holds them."""
    made: list[bytes] = []
    first = 0
    while first < len(records):
        builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, BATCH_BYTES)
        taken = 0
        for offset, (key, value) in enumerate(records[first:]):
            if builder.append(offset, 1_700_000_000_000, key, value, []) is None:
                break
            taken += 1
        batch = bytearray(builder.build())
        batch[0:8] = first.to_bytes(8, "big")  # the base offset, which the checksum leaves out
        made.append(bytes(batch))
        first += taken
    return made


def messages(batch: bytes) -> list[Any]:
    """Read a record batch as the client's consumer does, checksum and all."""
    return list(Fetcher.PartitionRecords(*_in_response(batch)).take())


def own_messages(batch: bytes) -> list[Any]:
    """Read a record batch as this worker's consumer does."""
    return list(PartitionRecords(*_in_response(batch)).take())


def _in_response(batch: bytes) -> tuple[int, TopicPartition, MemoryRecords]:
    return 0, TopicPartition("bench", 0), MemoryRecords(batch)
