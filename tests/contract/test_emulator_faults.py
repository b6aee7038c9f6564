"""Faults on demand: each kind, what it hits, what it leaves behind; and the journal of requests."""

import json
import time
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from alibabacloud_oss_v2 import exceptions
from alibabacloud_oss_v2.vectors import models

from tests.support.bounded import join, thread
from tests.support.emulator import Emulator, Fault
from tests.support.worker import wait_for


def put(emulator: Emulator, target: tuple[str, str], *keys: str, timeout: float = 30) -> Any:
    """Put a vector of each key; returns (status, error code), or the exception when there was no answer."""
    bucket, index = target
    vectors = [{"key": key, "data": {"float32": [1.0, 2.0]}} for key in keys]
    request = models.PutVectorsRequest(bucket=bucket, index_name=index, vectors=vectors)
    try:
        return emulator.client(timeout=timeout).put_vectors(request).status_code, None
    except exceptions.OperationError as error:
        cause = error.unwrap()
        return (cause.status_code, cause.code) if isinstance(cause, exceptions.ServiceError) else cause


def read_xml(body: bytes) -> dict[str, str | None]:
    return {each.tag: each.text for each in ET.fromstring(body)}


def stored(emulator: Emulator, target: tuple[str, str]) -> set[str]:
    return set(emulator.dump(*target))


def applied_puts(emulator: Emulator, target: tuple[str, str]) -> list[bool]:
    """Whether each PutVectors of a bucket was applied."""
    return [one.applied for one in emulator.requests(bucket=target[0]) if one.operation == "PutVectors"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"status": 503}, (503, "ServiceUnavailable")),
        ({"status": 429}, (429, "QpsLimitExceeded")),
        ({"status": 503, "code": "TotalQpsLimitExceeded"}, (503, "TotalQpsLimitExceeded")),
        ({"status": 403, "code": "UserDisable"}, (403, "UserDisable")),
        ({"status": 503, "body": "xml"}, (503, "ServiceUnavailable")),
        ({"status": 502, "body": "html"}, (502, "BadErrorResponse")),
    ],
)
def test_an_error_answer_in_every_form(emulator: Emulator, rule: Fault, expected: tuple[int, str]) -> None:
    target = emulator.new_index(2)
    scoped: Fault = {**rule, "bucket": target[0]}
    emulator.fault(**scoped)
    outcome = put(emulator, target, "a")
    assert (outcome, stored(emulator, target)) == (expected, set())


@pytest.mark.parametrize("body", ["json", "xml"])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [({"ec": "0002-00000226"}, "0002-00000226"), ({"ec": ""}, None), ({}, "0400-00000001")],
)
def test_the_finer_code_is_in_the_body_and_in_a_header_or_in_none(
    emulator: Emulator, rule: Fault, expected: str | None, body: str
) -> None:
    bucket, index = emulator.new_index(2)
    scoped: Fault = {**rule, "bucket": bucket, "status": 400, "body": body}
    emulator.fault(**scoped)
    with pytest.raises(exceptions.OperationError) as caught:
        emulator.client().list_vectors(models.ListVectorsRequest(bucket=bucket, index_name=index))
    error = caught.value.unwrap()
    assert error.headers.get("x-oss-ec") == expected
    # The field by its name: the random id of the request beside it can have the letters EC too.
    fields = json.loads(error.snapshot)["Error"] if body == "json" else read_xml(error.snapshot)
    assert fields.get("EC") == expected


def test_a_truncated_error_answer_is_json_cut_in_the_middle(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    emulator.fault(bucket=bucket, status=500, body="truncated")
    with pytest.raises(exceptions.OperationError) as caught:
        emulator.client().list_vectors(models.ListVectorsRequest(bucket=bucket, index_name=index))
    error = caught.value.unwrap()
    assert (error.status_code, error.headers["Content-Type"]) == (500, "application/json")
    assert error.snapshot.startswith(b'{"Error":{"Code":"InternalError"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(error.snapshot)


@pytest.mark.parametrize("retry_after", [7, "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_retry_after_is_sent_as_given(emulator: Emulator, retry_after: int | str) -> None:
    bucket, index = emulator.new_index(2)
    emulator.fault(bucket=bucket, status=429, retry_after=retry_after)
    with pytest.raises(exceptions.OperationError) as caught:
        emulator.client().list_vectors(models.ListVectorsRequest(bucket=bucket, index_name=index))
    assert caught.value.unwrap().headers["Retry-After"] == str(retry_after)


def test_latency_delays_the_answer_and_the_request_is_applied(emulator: Emulator) -> None:
    target = emulator.new_index(2)
    emulator.fault(bucket=target[0], latency_seconds=0.3)
    started = time.monotonic()
    outcome = put(emulator, target, "a")
    assert (outcome, stored(emulator, target)) == ((200, None), {"a"})
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(("reset", "expected"), [("before", set()), ("after", {"a"})])
def test_a_reset_connection_before_and_after_applying(emulator: Emulator, reset: str, expected: set[str]) -> None:
    target = emulator.new_index(2)
    emulator.fault(bucket=target[0], reset=reset)
    outcome = put(emulator, target, "a")
    entry = emulator.requests(bucket=target[0])[-1]
    assert isinstance(outcome, exceptions.RequestError)
    assert "reset by peer" in str(outcome)
    assert (stored(emulator, target), entry.status, entry.applied) == (expected, None, bool(expected))


@pytest.mark.parametrize(("applies", "expected"), [("none", set()), ("all", {"a"})])
def test_a_hanging_request_is_never_answered(emulator: Emulator, applies: str, expected: set[str]) -> None:
    target = emulator.new_index(2)
    emulator.fault(bucket=target[0], hang=True, applies=applies)
    outcome = put(emulator, target, "a", timeout=0.3)
    assert isinstance(outcome, exceptions.ResponseError)
    assert "timed out" in str(outcome).lower()
    # The client may give up before the emulator has read the request.
    wait_for(lambda: applied_puts(emulator, target) == [bool(expected)], "the request was handled")
    assert stored(emulator, target) == expected


def test_a_hanging_request_is_reset_after_its_latency(emulator: Emulator) -> None:
    target = emulator.new_index(2)
    emulator.fault(bucket=target[0], hang=True, latency_seconds=0.1)
    outcome = put(emulator, target, "a")
    assert isinstance(outcome, exceptions.RequestError)
    assert "reset by peer" in str(outcome)


@pytest.mark.parametrize(
    ("applies", "expected"), [("none", set()), ("half", {"a", "b"}), ("all", {"a", "b", "c", "d"})]
)
def test_an_error_can_leave_the_request_applied_in_part_or_whole(
    emulator: Emulator, applies: str, expected: set[str]
) -> None:
    target = emulator.new_index(2)
    emulator.fault(bucket=target[0], status=500, applies=applies)
    outcome = put(emulator, target, "a", "b", "c", "d")
    assert (outcome, stored(emulator, target)) == ((500, "InternalError"), expected)


def test_a_deletion_can_be_applied_in_part(emulator: Emulator) -> None:
    bucket, index = target = emulator.new_index(2)
    put(emulator, target, "a", "b")
    emulator.fault(bucket=bucket, operation="DeleteVectors", status=500, applies="half")
    with pytest.raises(exceptions.OperationError):
        emulator.client().delete_vectors(models.DeleteVectorsRequest(bucket=bucket, index_name=index, keys=["a", "b"]))
    assert stored(emulator, target) == {"b"}


def test_refused_keys_refuse_every_batch_that_contains_one(emulator: Emulator) -> None:
    target = emulator.new_index(2)
    emulator.fault(bucket=target[0], refuse_keys=["bad", "worse"])
    outcomes = [put(emulator, target, *keys) for keys in (("a", "bad"), ("b",), ("worse",), ("badly",))]
    refused = (400, "VectorIndexParameterInvalid")
    assert outcomes == [refused, (200, None), refused, (200, None)]
    assert stored(emulator, target) == {"b", "badly"}


def test_a_rule_hits_only_what_it_matches(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    other = emulator.new_index(2, bucket=bucket, index="other")
    emulator.fault(bucket=bucket, index=index, operation="PutVectors", key_contains="-x-", status=503)
    client = emulator.client()
    outcomes = [
        put(emulator, (bucket, index), "a-x-b"),
        put(emulator, (bucket, index), "ab"),
        put(emulator, other, "a-x-b"),
        client.get_vectors(models.GetVectorsRequest(bucket=bucket, index_name=index, keys=["a-x-b"])).status_code,
    ]
    assert outcomes == [(503, "ServiceUnavailable"), (200, None), (200, None), 200]


def test_skip_and_count_bound_the_hits_and_hits_are_counted(emulator: Emulator) -> None:
    target = emulator.new_index(2)
    number = emulator.fault(bucket=target[0], skip=1, count=2, status=503)
    statuses = [put(emulator, target, "a")[0] for _ in range(5)]
    hits = {fault["id"]: fault["hits"] for fault in emulator.faults()}
    emulator.clear_faults(target[0])
    assert (statuses, hits[number]) == ([200, 503, 503, 200, 200], 2)
    assert number not in {fault["id"] for fault in emulator.faults()}


def test_probability_repeats_with_its_seed(emulator: Emulator) -> None:
    draws = []
    for _ in range(2):
        target = emulator.new_index(2)
        emulator.fault(bucket=target[0], probability=0.5, seed=3, status=503)
        draws.append([put(emulator, target, "a")[0] for _ in range(16)])
    assert draws[0] == draws[1]
    assert set(draws[0]) == {200, 503}


def test_the_first_rule_that_takes_a_request_decides(emulator: Emulator) -> None:
    target = emulator.new_index(2)
    emulator.fault(bucket=target[0], status=503, count=1)
    emulator.fault(bucket=target[0], status=429)
    assert [put(emulator, target, "a")[0] for _ in range(2)] == [503, 429]


@pytest.mark.parametrize("rule", [{"statsu": 503}, {"status": 200}, {"reset": "maybe"}])
def test_a_rule_that_is_none_is_refused(emulator: Emulator, rule: dict[str, Any]) -> None:
    response = emulator.session.post(f"{emulator.url}/_emulator/faults", json=rule, timeout=10)
    assert (response.status_code, list(response.json())) == (400, ["error"])


def test_the_journal_tells_what_each_request_was_and_did(emulator: Emulator) -> None:
    bucket, index = target = emulator.new_index(2)
    since = emulator.requests()[-1].sequence
    put(emulator, target, "a", "b")
    put(emulator, (bucket, "absent"), "c")
    entries = emulator.requests(since)
    assert [(one.operation, one.bucket, one.index, one.keys, one.status, one.code, one.applied) for one in entries] == [
        ("PutVectors", bucket, index, ["a", "b"], 200, None, True),
        ("PutVectors", bucket, "absent", ["c"], 404, "NoSuchVectorIndex", False),
    ]
    ends = [one.ended for one in entries]
    assert [ends[0] is not None and one.started <= ends[0] for one in entries[:1]] == [True]
    assert abs(entries[0].at - time.time()) < 60


def test_the_journal_of_one_bucket_has_no_other_request(emulator: Emulator) -> None:
    target, other = emulator.new_index(2), emulator.new_index(2)
    since = emulator.requests()[-1].sequence
    for one in (target, other, target):
        put(emulator, one, "a")
    assert [one.bucket for one in emulator.requests(since)] == [target[0], other[0], target[0]]
    assert [one.bucket for one in emulator.requests(since, target[0])] == [target[0]] * 2


def test_the_journal_shows_that_requests_overlapped(emulator: Emulator) -> None:
    target = emulator.new_index(2)
    since = emulator.requests()[-1].sequence
    emulator.fault(bucket=target[0], latency_seconds=2)
    join(*[thread(put, emulator, target, key) for key in ("a", "b")])
    first, second = emulator.requests(since)
    assert first.ended is not None
    assert second.started < first.ended


def test_a_rule_can_hit_one_version_of_a_key_by_what_the_body_contains(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    emulator.fault(bucket=bucket, body_contains="second", status=400)

    def put_version(version: str) -> int:
        vector = {"key": "a", "data": {"float32": [1.0, 2.0]}, "metadata": {"version": version}}
        request = models.PutVectorsRequest(bucket=bucket, index_name=index, vectors=[vector])
        try:
            return int(emulator.client().put_vectors(request).status_code)
        except exceptions.OperationError as error:
            return int(error.unwrap().status_code)

    assert [put_version(version) for version in ("first", "second", "third")] == [200, 400, 200]
