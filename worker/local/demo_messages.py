"""The messages of the demo: sentences with their embeddings, newer versions of some, and a few broken records."""

import base64
import json
from dataclasses import dataclass

import msgspec

from worker.local.sentences import DIMENSION, Sentence, Sentences


@dataclass(frozen=True)
class Published:
    """A message as it was published."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def as_json(sentence: Sentence) -> bytes:
    """Return the record as most producers write it: JSON, the vector as a list of numbers."""
    return json.dumps(_record(sentence, sentence.vector.tolist())).encode()


def as_base64(sentence: Sentence) -> bytes:
    """Return the record with the vector as embedding APIs return it on request: base64 of float32."""
    return json.dumps(_record(sentence, base64.b64encode(sentence.vector.tobytes()).decode())).encode()


def as_msgpack(sentence: Sentence) -> bytes:
    """Return the record in MessagePack, the vector as raw float32 bytes."""
    return msgspec.msgpack.encode(_record(sentence, sentence.vector.tobytes()))


def _record(sentence: Sentence, vector: object) -> dict[str, object]:
    metadata = {"topic": sentence.topic, "text": sentence.text}
    return {"key": sentence.key, "data": {"float32": vector}, "metadata": metadata}


def good_messages(data: Sentences) -> list[Published]:
    """Return every sentence, and after them the newer versions, in the three encodings by turns."""
    encode = (as_json, as_base64, as_msgpack)
    return [
        Published(sentence.key.encode(), encode[place % len(encode)](sentence))
        for place, sentence in enumerate((*data.sentences, *data.updates))
    ]


def broken_messages() -> list[tuple[str, Published]]:
    """Return records that can never be written, each with the reason that its dead letter must have."""
    vector = [0.05] * DIMENSION

    def record(**changes: object) -> bytes:
        return json.dumps({"key": "broken", "data": {"float32": vector}, **changes}).encode()

    nan = msgspec.msgpack.encode({"key": "broken", "data": {"float32": [float("nan"), *vector[1:]]}})
    return [
        ("malformed", Published(b"broken-1", b'{"key": "broken-1", "data": {"float32": [0.1, 0.2')),
        ("malformed", Published(b"broken-2", b"not a record at all", (("trace-id", b"4f1d"),))),
        ("dimension", Published(b"broken-3", record(data={"float32": vector[:3]}))),
        ("zero_vector", Published(b"broken-4", record(data={"float32": [0] * DIMENSION}))),
        ("not_finite", Published(b"broken-5", nan)),
        ("metadata", Published(b"broken-6", record(metadata={"year": 1969}))),
        ("unsupported_encoding", Published(b"broken-7", b"\x00\x00\x00\x00\x2a\x02\x06Avro")),
        ("key", Published(None, record(key=None))),
    ]
