"""The service's own words: the bodies of requests, and what a description says of an index."""

import json

import pytest

from worker.errors import RetryReason, Transient
from worker.oss.dialect import CALLS, Envelope, describe_body, described
from worker.ports import Operation
from worker.records.target import Target

ENVELOPE = Envelope.of("docs")


def test_the_put_body_is_the_request_of_the_service() -> None:
    body = ENVELOPE.put_body([b'{"key":"a"}', b'{"key":"b"}'])
    assert body == b'{"indexName":"docs","vectors":[{"key":"a"},{"key":"b"}]}'
    assert ENVELOPE.put_overhead == len(b'{"indexName":"docs","vectors":[]}')


def test_a_put_body_of_one_record_has_its_head_and_its_tail() -> None:
    assert ENVELOPE.put_body([b"{}"]) == b'{"indexName":"docs","vectors":[{}]}'


def test_the_delete_body_is_the_request_of_the_service_with_the_keys_escaped() -> None:
    assert json.loads(ENVELOPE.delete_body(['a"\n', "é"])) == {"indexName": "docs", "keys": ['a"\n', "é"]}


def test_every_operation_has_its_call() -> None:
    assert set(CALLS) == set(Operation)


def test_an_index_is_asked_for_by_its_name() -> None:
    assert json.loads(describe_body('a"é')) == {"indexName": 'a"é'}


def test_a_description_gives_dimension_metric_and_keys() -> None:
    metadata = {"nonFilterableMetadataKeys": ["text"]}
    index = {"dimension": 4, "distanceMetric": "cosine", "status": "enable", "metadata": metadata, "other": 1}
    assert described("docs", json.dumps({"index": index}).encode()) == Target("docs", 4, "cosine", frozenset({"text"}))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"metadata": None},
        {"metadata": {}},
        {"metadata": {"nonFilterableMetadataKeys": None}},
        {"metadata": {"nonFilterableMetadataKeys": []}},
        {"status": None},
        {"status": ""},
        {"status": "Enable"},
        {"status": "ENABLE", "distanceMetric": "Cosine"},
    ],
)
def test_what_an_index_has_not_may_be_left_out_or_null(said: dict[str, object]) -> None:
    body = json.dumps({"index": {"dimension": 4, "distanceMetric": "cosine"} | said}).encode()
    assert described("docs", body) == Target("docs", 4, "cosine")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", "no index", id="nothing"),
        pytest.param(b"\xff", "no index", id="no UTF-8"),
        pytest.param(b'{"index":{}}', "no index", id="without a dimension"),
        *(
            pytest.param(
                b'{"index":{"dimension":%d,"distanceMetric":"cosine"}}' % number, "no index", id=f"dimension {name}"
            )
            for name, number in (("0", 0), ("-1", -1), ("65537", 65537), ("of many digits", 10**30))
        ),
        pytest.param(b"[" * 100_000, "no index", id="deep"),
        pytest.param(
            b'{"index":{"dimension":4,"distanceMetric":"cosine","status":"creating"}}', '"creating"', id="not ready"
        ),
    ],
)
def test_what_describes_no_index_that_is_ready_is_asked_for_again(body: bytes, says: str) -> None:
    with pytest.raises(Transient, match=says) as error:
        described("docs", body)
    assert error.value.kind is RetryReason.SERVER
