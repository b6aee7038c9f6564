"""Records of other shapes and in envelopes on a real broker: one worker, a topic for each, and the commands that read them."""

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from tests.support.commands import command
from tests.support.worker import Record, Stage, StageFactory, WorkerFactory, publish

NUMBERS: Final = [1.0, 2.0, 3.0, 4.0]
RAW: Final = struct.pack("<4f", *NUMBERS)
DATE: Final = {"type": "int32", "name": "org.apache.kafka.connect.data.Date", "field": "day"}
ROW: Final = {"key": "id", "vector": "embedding", "metadata": ["title"]}

RECORDS: Final[dict[str, dict[str, Any]]] = {
    "flat": {
        "key_values": "stringify",
        "metadata_values": "stringify",
        "fields": {
            "key": "{$header.tenant}/{id}",
            "vector": "doc.vec",
            "metadata": ["page", "tags"],
            "delete": "__deleted",
        },
    },
    "connect": {
        "envelope": "connect",
        "tombstones": "delete",
        "metadata_values": "stringify",
        "fields": {"metadata": {"day": "day"}},
    },
    "debezium": {"envelope": "debezium", "key_values": "stringify", "fields": ROW},
    "alone": {"fields": {"vector": "$kafka.value", "metadata": ["$header.tenant"]}},
    "events": {"envelope": "cloudevents", "fields": {"key": "$attribute.subject", "vector": "vec", "metadata": ""}},
}


def of(key: bytes | None, value: Any, *headers: tuple[str, bytes]) -> Record:
    """Return a record in JSON, or of these bytes."""
    return Record(key, value if isinstance(value, bytes) else json.dumps(value).encode(), headers=headers)


def change(op: str, before: Any = None, after: Any = None) -> dict[str, Any]:
    return {"schema": {}, "payload": {"before": before, "after": after, "source": {}, "op": op, "ts_ms": 1}}


def event(subject: str, **data: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "e", "source": "/x", "type": "t", "subject": subject, **data}


TENANT: Final = ("tenant", b"t")
BINARY: Final = (("ce_specversion", b"1.0"), ("ce_subject", b"e3"))
PUBLISHED: Final[dict[str, Sequence[Record]]] = {
    "flat": [
        of(b"1", {"id": 1, "doc": {"vec": "[1, 2, 3, 4]"}, "page": 3, "tags": ["a"]}, TENANT),
        of(b"2", {"id": 9007199254740993, "doc": {"vec": base64.urlsafe_b64encode(RAW).decode().rstrip("=")}}, TENANT),
        of(b"3", msgspec.msgpack.encode({"id": 3, "doc": {"vec": RAW}}), TENANT),
        of(b"4", {"id": 4, "doc": {"vec": NUMBERS}}, TENANT),
        of(b"4", {"id": 4, "__deleted": "true"}, TENANT),
        of(b"5", {"id": 5, "doc": {"vec": NUMBERS}}),
    ],
    "connect": [
        of(
            b'{"schema":{"type":"string"},"payload":"c1"}',
            {
                "schema": {"type": "struct", "fields": [DATE]},
                "payload": {"data": {"float32": NUMBERS}, "day": 20786},
            },
        ),
        of(b'{"schema":{"type":"string"},"payload":"c2"}', {"schema": {}, "payload": {"data": {"float32": NUMBERS}}}),
        of(b'{"schema":{"type":"string"},"payload":"c2"}', {"schema": None, "payload": None}),
    ],
    "debezium": [
        of(b'{"id":1}', change("r", None, {"id": 1, "embedding": "[1,2,3,4]", "title": "x"})),
        of(b'{"id":2}', change("c", None, {"id": 2, "embedding": NUMBERS, "title": "y"})),
        of(b'{"id":2}', change("d", {"id": 2, "embedding": None})),
        Record(b'{"id":2}', None),
        of(b'{"serverName":"s"}', {"ts_ms": 1}),
        of(b'{"id":1}', change("u", None, {"id": 1, "embedding": "__debezium_unavailable_value", "title": "z"})),
        of(None, change("t")),
    ],
    "alone": [of(b"a1", RAW, TENANT), of(b"a2", RAW[:-4])],
    "events": [
        of(b"k", event("e1", data={"vec": NUMBERS})),
        of(b"k", event("e2", data_base64=base64.b64encode(json.dumps({"vec": NUMBERS}).encode()).decode())),
        of(b"k", {"vec": NUMBERS}, *BINARY),
        of(b"k", {"vec": NUMBERS}),
    ],
}
SETTLED: Final = sum(len(records) for records in PUBLISHED.values())
EXPECTED: Final = {
    "t/1": {"page": "3", "tags": ["a"]},
    "t/9007199254740993": {},
    "t/3": {},
    "c1": {"day": "2026-11-29"},
    "1": {"title": "x"},
    "a1": {"tenant": "t"},
    "e1": {},
    "e2": {},
    "e3": {},
}


def topics_of(stage: Stage) -> dict[str, str]:
    """Make a topic for each kind of records, and return their names."""
    names = {kind: f"{stage.topic}-{kind}" for kind in RECORDS}
    stage.admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1} for name in names.values()})
    return names


def test_every_shape_and_envelope_is_read_as_its_route_says(
    new_stage: StageFactory, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    stage = new_stage(partitions=1)
    names = topics_of(stage)
    routes = [{"topic": names[kind], "index": stage.index, "records": records} for kind, records in RECORDS.items()]
    settings = stage.settings() | {"OSS_VECTORS_ROUTES": json.dumps(routes)}
    for kind, records in PUBLISHED.items():
        publish(stage.broker.bootstrap, names[kind], records)
    worker = start_worker(settings).wait_ready()
    outcomes = worker.wait_settled(SETTLED).outcomes()
    # A row that is deleted soon after it was written may be superseded in its batch.
    assert outcomes.get("put", 0) + outcomes.get("superseded", 0) == 12
    assert [outcomes.get(name, 0) for name in ("deleted", "ignored", "dead_lettered")] == [3, 2, 5]
    stored = stage.stored()
    assert {key: one.metadata or {} for key, one in stored.items()} == EXPECTED
    assert all([float(number) for number in one.data] == NUMBERS for one in stored.values())
    reasons = {
        (headers["__connect.errors.topic"].decode().rpartition("-")[2], headers["oss-vectors.reason"].decode())
        for headers in (dict(letter.headers) for letter in stage.dead_letters())
    }
    assert reasons == {("flat", "key"), ("debezium", "malformed"), ("alone", "dimension"), ("events", "malformed")}

    sampled = command(settings, "check", "--sample", "100", "--json")
    assert f'"subject": "{names["connect"]}"' in sampled.out
    assert "5 of 6 records would be accepted (1 delete a vector)" in sampled.out
    listed = command(settings, "dlq", "list", "--json")
    assert json.loads(listed.out)["total"] == 5

    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(change("c", None, {"id": 8, "embedding": NUMBERS, "title": "w"})) + "\n")
    sent = command(settings, "produce", file, "--topic", names["debezium"])
    assert (sent.code, "1 records sent" in sent.out) == (0, True), sent
    np.savez(tmp_path / "rows.npz", keys=["a2"], vectors=np.array([NUMBERS]))
    sent = command(settings, "produce", tmp_path / "rows.npz", "--topic", names["alone"], "--header", "tenant=u")
    assert (sent.code, "1 records sent" in sent.out) == (0, True), sent
    worker.wait_settled(SETTLED + 2)
    stored = stage.stored()
    assert [stored[key].metadata for key in ("8", "a2")] == [{"title": "w"}, {"tenant": "u"}]
    verified = command(settings, "verify", "--topic", names["alone"])
    assert verified.code == 0, verified
    replayed = command(settings, "dlq", "replay", "--key", "a2", "--yes")
    assert "newer" in replayed.out, replayed
