"""One bad record costs one record: it is dead-lettered as it came, and its neighbours are written."""

import json
import re
import struct
from contextlib import closing
from datetime import datetime
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer

from tests.support.worker import Record, Stage, StageFactory, WorkerFactory, WorkerProcess, vector_record, wait_for
from worker.deadletters.headers import read_headers

GOOD = [1.0, 2.0, 3.0, 4.0]
MAX_BYTES = 2048  # batch.max_bytes of these tests
REGISTRY = b"\x00\x00\x00\x01\x02"
HOW_TO_READ = ("oss-vectors.source-headers", "oss-vectors.null-header-places")
MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def text(**fields: object) -> bytes:
    """A value in JSON with a good vector, unless `fields` say otherwise; a field that is None is left out."""
    record = {"key": "k", "data": {"float32": GOOD}} | fields
    return json.dumps({name: value for name, value in record.items() if value is not None}).encode()


def vector(numbers: object) -> bytes:
    """A value in JSON with this for a vector."""
    return text(data={"float32": numbers})


def packed(numbers: object) -> bytes:
    """A value in MessagePack with this for a vector."""
    return msgspec.msgpack.encode({"key": "k", "data": {"float32": numbers}})


BROKEN: list[tuple[str, Record]] = [
    ("malformed", Record(b"k", b"")),
    ("malformed", Record(b"k", b"hello")),
    ("malformed", Record(b"k", text()[:-5])),
    ("malformed", Record(b"k", text() + b"{}")),
    ("malformed", Record(b"k", b"[1]")),
    ("malformed", Record(b"k", b"{}")),
    ("malformed", Record(b"k", b'{"key":"\xff","data":{"float32":[1,2,3,4]}}')),
    ("malformed", Record(b"k", text()[:-1] + b',"metadata":{"n":1,"t":"\xe9"}}')),
    ("malformed", Record(b"k", b"\x83" + packed(GOOD)[1:] + b"\xa8metadata\x82\xa1n\x01\xa1t\xa1\xe9")),
    ("malformed", Record(b"k", b'{"key":"k","data":{"float32":[NaN,2,3,4]}}')),
    ("malformed", Record(b"k", b'{"key":"k","x":' + b"[" * 100_000)),
    ("malformed", Record(b"k", text(key=7))),
    ("malformed", Record(b"k", vector("not base64!"))),
    ("malformed", Record(b"k", vector("AAAA"))),
    ("malformed", Record(b"k", packed(b"123"))),
    ("malformed", Record(b"k", packed(GOOD)[:-1])),
    ("unsupported_encoding", Record(b"k", REGISTRY + b"\x02\x04avro")),
    ("unsupported_encoding", Record(b"k", REGISTRY + b"\x0aabcde\x10")),
    ("unsupported_encoding", Record(b"k", REGISTRY)),
    ("unsupported_encoding", Record(b"k", b"\x00\x00")),
    ("key", Record(None, text(key=None))),
    ("key", Record(b"", text(key=None))),
    ("key", Record(b"k", text(key=""))),
    ("key", Record(b"k", text(key="x" * 1025))),
    ("key", Record(b"\xff\xfe", text(key=None))),
    ("key", Record(REGISTRY + b"k", text(key=None))),
    ("dimension", Record(b"k", vector([1.0, 2.0]))),
    ("dimension", Record(b"k", packed(struct.pack("<5f", *GOOD, 5.0)))),
    ("not_finite", Record(b"k", vector([1e39, 1, 1, 1]))),
    ("not_finite", Record(b"k", packed([float("nan"), 1.0, 1.0, 1.0]))),
    ("not_finite", Record(b"k", packed(struct.pack("<4f", float("inf"), 1, 1, 1)))),
    ("zero_vector", Record(b"k", vector([0, 0, -0.0, 1e-60]))),
    ("metadata", Record(b"k", text(metadata=["a"]))),
    ("metadata", Record(b"k", text(metadata={"pages": 3}))),
    ("metadata", Record(b"k", text(metadata={str(number): "x" for number in range(11)}))),
    ("metadata", Record(b"k", text(metadata={"title": "x" * 2100}))),
    ("too_large", Record(b"k", text(metadata={"title": "x" * 2000}))),
    ("tombstone", Record(b"k", None)),
    ("tombstone", Record(None, None)),
    ("malformed", Record(None, b"no key")),
    ("malformed", Record(b"k", b"x", [("trace", b"\x00\xff"), ("empty", b""), ("trace", b"again")])),
    ("malformed", Record(b"k", b"x", [("first", None), ("there", b"1"), ("second", None)])),
    ("tombstone", Record(None, None, [("first", None)])),
]


def run_to_the_end(stage: Stage, start_worker: WorkerFactory, records: int, **overrides: object) -> Any:
    """Start a worker, let it settle and commit everything, and return its last scrape."""
    worker = start_worker(stage.settings(**overrides))
    now = worker.wait_settled(records)
    stage.wait_committed_to_the_end(worker)
    return now


def headers_of(letter: Any, source: Record) -> dict[str, str]:
    """Return the headers on top of the source record's own, which must come first, a null value as an empty one."""
    own = [(name, value or b"") for name, value in source.headers]
    assert letter.headers[: len(own)] == own
    values = [(name, value) for name, value in letter.headers[len(own) :] if name not in HOW_TO_READ]
    assert read_headers(letter.headers).source == list(source.headers)
    names = [name for name, _ in values]
    assert len(names) == len(set(names))
    return {name: value.decode() for name, value in values}


def test_every_kind_of_broken_record_is_a_dead_letter_byte_for_byte(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1, distance_metric="cosine")
    good = [vector_record(f"good-{number}", GOOD) for number in range(len(BROKEN))]
    records = [record for pair in zip(good, (broken for _, broken in BROKEN), strict=True) for record in pair]
    places = stage.publish(records)
    before = datetime.now().astimezone()

    now = run_to_the_end(
        stage, start_worker, len(records), batch__max_bytes=MAX_BYTES, dead_letter__limit_ratio=1, kafka__client_id="me"
    )

    assert stage.dump() == {f"good-{number}": GOOD for number in range(len(BROKEN))}
    letters = stage.dead_letters()
    assert [(one.key, one.value) for one in letters] == [
        (broken.key, b"" if (broken.key, broken.value) == (None, None) else broken.value) for _, broken in BROKEN
    ]
    for letter, (reason, broken), place in zip(letters, BROKEN, places[1::2], strict=True):
        values = headers_of(letter, broken)
        message = values.pop("__connect.errors.exception.message")
        assert message.strip(), reason
        assert re.fullmatch(r"[\w.]+Decoder", values.pop("__connect.errors.class.name"))
        assert re.fullmatch(r"[\w.]+RecordError", values.pop("__connect.errors.exception.class.name"))
        failed_at, timestamp = values.pop("oss-vectors.failed-at"), values.pop("oss-vectors.timestamp")
        assert re.fullmatch(MOMENT, failed_at)
        assert re.fullmatch(MOMENT, timestamp)
        assert timestamp <= failed_at
        assert datetime.fromisoformat(failed_at) > before
        nulls = ",".join(name for name, value in broken.headers if value is None)
        assert values.pop("oss-vectors.null-headers", "") == nulls
        assert values == {
            "__connect.errors.topic": stage.topic,
            "__connect.errors.partition": "0",
            "__connect.errors.offset": str(place.offset),
            "__connect.errors.connector.name": stage.group,
            "__connect.errors.task.id": "me",
            "__connect.errors.stage": "VALUE_CONVERTER",
            "oss-vectors.reason": reason,
            "oss-vectors.index": stage.index,
        }, (reason, broken.value, message)

    reasons = {reason for reason, _ in BROKEN}
    counts = {reason: sum(1 for one, _ in BROKEN if one == reason) for reason in reasons}
    counted = now.by("dead_letters_total", "reason", topic=stage.topic)
    assert {reason: count for reason, count in counted.items() if count} == counts
    assert now.outcomes() == {"put": len(good), "dead_lettered": len(BROKEN)}
    assert now.by("dead_letter_writes_total", "result") == {"ok": len(BROKEN), "failed": 0}


def test_a_key_in_json_without_its_quotes_is_a_dead_letter(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    stage.publish([Record(b'"quoted"', text(key=None)), Record(b"bare", text(key=None))])

    run_to_the_end(stage, start_worker, 2, records__key_format="json")

    assert stage.dump() == {"quoted": GOOD}
    assert [(letter.key, dict(letter.headers)["oss-vectors.reason"]) for letter in stage.dead_letters()] == [
        (b"bare", b"key")
    ]


def test_a_record_that_the_service_refuses_is_bisected_out_of_its_batch(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    stage.emulator.fault(bucket=stage.bucket, refuse_keys=["k-5", "k-11"])
    records = [vector_record(f"k-{number}", GOOD) for number in range(16)]
    records[5] = Record(b"k-5", records[5].value, [("trace", b"1")])
    places = stage.publish(records)

    now = run_to_the_end(stage, start_worker, 16)

    assert stage.dump() == {f"k-{number}": GOOD for number in range(16) if number not in (5, 11)}
    letters = {letter.key: letter for letter in stage.dead_letters()}
    assert letters.keys() == {b"k-5", b"k-11"}
    for number in (5, 11):
        letter = letters[b"k-%d" % number]
        values = headers_of(letter, records[number])
        (refusal,) = [one for one in stage.requests("PutVectors") if one.keys == [f"k-{number}"]]
        assert letter.value == records[number].value
        assert "VectorIndexParameterInvalid" in values.pop("__connect.errors.exception.message")
        assert values.pop("__connect.errors.class.name").strip()
        assert values.pop("__connect.errors.exception.class.name").endswith("Refused")
        assert values.pop("oss-vectors.timestamp") <= values.pop("oss-vectors.failed-at")
        assert values == {
            "__connect.errors.topic": stage.topic,
            "__connect.errors.partition": "0",
            "__connect.errors.offset": str(places[number].offset),
            "__connect.errors.connector.name": stage.group,
            "__connect.errors.task.id": "oss-vectors-worker",
            "__connect.errors.stage": "TASK_PUT",
            "oss-vectors.reason": "refused",
            "oss-vectors.index": stage.index,
            "oss-vectors.http-status": "400",
            "oss-vectors.error-code": "VectorIndexParameterInvalid",
            "oss-vectors.request-id": refusal.request_id,
            "oss-vectors.attempts": "1",
        }
    assert now.outcomes() == {"put": 14, "dead_lettered": 2}
    assert now.total("bisects_total") >= 4


@pytest.mark.parametrize(("max_records", "skip", "count"), [(500, 0, 2), (1, 1, 1)])
def test_of_a_refused_version_the_one_before_it_stands(
    new_stage: StageFactory, start_worker: WorkerFactory, max_records: int, skip: int, count: int
) -> None:
    """In one batch, the batch and the newer version alone are refused; in batches of one, the second that has the key."""
    stage = new_stage(partitions=1)
    stage.emulator.fault(bucket=stage.bucket, refuse_keys=["doc"], skip=skip, count=count)
    stage.publish_versions([("other", GOOD), ("doc", [1.0] * 4), ("doc", [2.0] * 4)])

    now = run_to_the_end(stage, start_worker, 3, batch__max_records=max_records)

    assert stage.dump() == {"other": GOOD, "doc": [1.0] * 4}
    assert now.outcomes() == {"put": 2, "dead_lettered": 1}
    assert [json.loads(letter.value)["data"]["float32"] for letter in stage.dead_letters()] == [[2.0] * 4]


def test_a_record_that_alone_gets_500_while_others_are_taken_is_a_dead_letter(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=2)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", keys=["poison"], status=500)
    stage.publish_versions([(f"first-{number}", GOOD) for number in range(8)])
    stage.publish([vector_record("poison", GOOD)])
    worker = start_worker(stage.settings(dead_letter__isolated_attempts=3))

    with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap)) as producer:

        def one_more_passes() -> bool:
            stage.publish_versions_with(producer, [(f"more-{len(stage.history)}", GOOD)])
            return bool(worker.metrics().total("dead_letters_total", reason="isolated_server_error"))

        wait_for(one_more_passes, "the record is a dead letter", told=worker.last_words)
    now = worker.wait_settled(len(stage.history) + 1)
    stage.wait_committed_to_the_end(worker)

    assert stage.dump() == stage.model()
    assert now.outcomes() == {"put": len(stage.history), "dead_lettered": 1}
    (letter,) = stage.dead_letters()
    values = headers_of(letter, vector_record("poison", GOOD))
    assert (letter.key, values["oss-vectors.http-status"], values["oss-vectors.error-code"]) == (
        b"poison",
        "500",
        "InternalError",
    )
    assert int(values["oss-vectors.attempts"]) >= 3
    assert_the_page_tells_of(letter, worker)


def assert_the_page_tells_of(letter: Any, worker: WorkerProcess) -> None:
    """The page says where the dead letter came from and why, and nothing of the record."""
    page = worker.get("/")
    values = headers_of(letter, vector_record("poison", GOOD))
    place = f"{values['__connect.errors.topic']}/{values['__connect.errors.partition']}"
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page.body)
    at = cells.index(values["oss-vectors.reason"])
    assert (page.status, cells[at + 1 : at + 3]) == (200, [place, values["__connect.errors.offset"]])
    assert [words in page.body for words in ("<h1>running</h1>", "OSS_VECTORS_OSS__BUCKET", "poison")] == [
        True,
        True,
        False,
    ]


def test_a_record_that_gets_500_while_nothing_is_taken_blocks_until_it_is_taken(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", status=500)
    stage.publish_versions([("a", GOOD), ("b", GOOD)])
    worker = start_worker(stage.settings(dead_letter__isolated_attempts=3, batch__max_records=1))

    worker.wait_until(lambda m: (stage.topic, "record_stuck") in m.blocks(), "the stuck record blocks")
    worker.wait_until(lambda m: m.state == "blocked", "the state is blocked")
    assert worker.readyz().status == 503
    stage.emulator.clear_faults(stage.bucket)
    now = worker.wait_settled(2)
    now = worker.wait_until(lambda m: m.state == "running", "it runs again")

    assert now.outcomes() == {"put": 2}
    assert now.blocks() == set()
    assert stage.dump() == stage.model()
