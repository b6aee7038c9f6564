"""Every limit of the service, at it and beyond it; a refused write changes nothing."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from alibabacloud_oss_v2 import exceptions
from alibabacloud_oss_v2.types import CaseInsensitiveDict, OperationInput
from alibabacloud_oss_v2.vectors import models

from tests.support.emulator import Emulator

Body = dict[str, Any]
Outcome = tuple[int, str | None]

OK: Outcome = (200, None)
DELETED: Outcome = (204, None)
INVALID: Outcome = (400, "VectorIndexParameterInvalid")
MISSING: Outcome = (400, "MissingArgument")
MALFORMED: Outcome = (400, "MalformedJson")
INTERNAL: Outcome = (500, "InternalError")
DIMENSION = 4


def send(emulator: Emulator, bucket: str, operation: str, body: Body | bytes) -> Outcome:
    """Send a body as it is, past the SDK's models; returns (status, error code)."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = OperationInput(
        op_name=operation,
        method="POST",
        headers=CaseInsensitiveDict({"Content-Type": "application/json"}),
        parameters={operation: ""},
        bucket=bucket,
        body=content,
    )
    try:
        return emulator.client().invoke_operation(request).http_response.status_code, None
    except exceptions.OperationError as error:
        cause = error.unwrap()
        assert isinstance(cause, exceptions.ServiceError)
        return cause.status_code, cause.code


def vector(key: Any = "k", numbers: Any = (1.0, 2.0, 3.0, 4.0), **fields: Any) -> Body:
    return {"key": key, "data": {"float32": list(numbers)}, **fields}


def many(count: int) -> list[Body]:
    return [vector(f"k{number}") for number in range(count)]


def keys(count: int) -> list[str]:
    return [f"k{number}" for number in range(count)]


def metadata_of_size(size: int, name: str) -> Body:
    """Metadata whose compact JSON has `size` bytes, in one key."""
    return {name: "x" * (size - len(json.dumps({name: ""}, separators=(",", ":"))))}


def filter_of_depth(depth: int) -> Body:
    tree: Body = {"a": {"$eq": "b"}}
    for _ in range(depth - 1):
        tree = {"$and": [tree]}
    return tree


PUT: list[tuple[str, Any, Outcome]] = [
    ("one vector", [vector()], OK),
    ("no vector", [], INVALID),
    ("500 vectors", many(500), OK),
    ("501 vectors", many(501), INVALID),
    ("the same key twice", [vector("a"), vector("b"), vector("a")], INVALID),
    ("no vectors member", None, MISSING),
    ("vectors is no list", {"key": "k"}, INVALID),
    ("a key of 1 character", [vector("k")], OK),
    ("an empty key", [vector("")], INVALID),
    ("a key of 1,024 characters", [vector("é" * 1024)], OK),
    ("a key of 1,025 characters", [vector("k" * 1025)], INVALID),
    ("a key that is a number", [vector(7)], INVALID),
    ("no key", [{"data": {"float32": [1, 2, 3, 4]}}], MISSING),
    ("no data", [{"key": "k"}], MISSING),
    ("data of another type", [{"key": "k", "data": {"float64": [1, 2, 3, 4]}}], MISSING),
    ("too few numbers", [vector(numbers=[1, 2, 3])], INVALID),
    ("too many numbers", [vector(numbers=[1, 2, 3, 4, 5])], INVALID),
    ("integers as numbers", [vector(numbers=[1, 2, 3, 4])], OK),
    ("a number as text", [vector(numbers=["1", 2, 3, 4])], INVALID),
    ("a boolean as number", [vector(numbers=[True, 2, 3, 4])], INVALID),
    ("null as number", [vector(numbers=[None, 2, 3, 4])], INVALID),
    ("the largest float32", [vector(numbers=[3.4028234663852886e38, 2, 3, 4])], OK),
    ("beyond float32", [vector(numbers=[3.5e38, 2, 3, 4])], INVALID),
    ("below float32", [vector(numbers=[-1e39, 2, 3, 4])], INVALID),
    ("zeros under euclidean", [vector(numbers=[0, 0, 0, 0])], OK),
    ("NaN", [vector(numbers=[float("nan"), 2, 3, 4])], INTERNAL),
    ("Infinity", [vector(numbers=[float("inf"), 2, 3, 4])], INTERNAL),
    ("-Infinity", [vector(numbers=[float("-inf"), 2, 3, 4])], INTERNAL),
    ("NaN in a vector that is too short", [vector(numbers=[float("nan")])], INVALID),
    ("no metadata", [vector(metadata={})], OK),
    ("lists of strings", [vector(metadata={"tags": ["a", "b"], "empty": []})], OK),
    ("a number in metadata", [vector(metadata={"year": 2020})], INVALID),
    ("a boolean in metadata", [vector(metadata={"new": True})], INVALID),
    ("null in metadata", [vector(metadata={"none": None})], INVALID),
    ("an object in metadata", [vector(metadata={"nested": {"a": "b"}})], INVALID),
    ("a list with a number in metadata", [vector(metadata={"tags": ["a", 1]})], INVALID),
    ("metadata that is text", [vector(metadata="text")], INVALID),
    ("10 filterable keys", [vector(metadata=dict.fromkeys(keys(10), "v"))], OK),
    ("11 filterable keys", [vector(metadata=dict.fromkeys(keys(11), "v"))], INVALID),
    ("10 filterable keys and others", [vector(metadata=dict.fromkeys([*keys(10), "title"], "v"))], OK),
    ("2 KB of filterable metadata", [vector(metadata=metadata_of_size(2048, "a"))], OK),
    ("more than 2 KB of filterable metadata", [vector(metadata=metadata_of_size(2049, "a"))], INVALID),
    ("40 KB of metadata", [vector(metadata=metadata_of_size(40 * 1024, "title"))], OK),
    ("more than 40 KB of metadata", [vector(metadata=metadata_of_size(40 * 1024 + 1, "title"))], INVALID),
]


@pytest.mark.parametrize(("vectors", "expected"), [row[1:] for row in PUT], ids=[row[0] for row in PUT])
def test_put_vectors_limit(emulator: Emulator, vectors: Any, expected: Outcome) -> None:
    bucket, index = emulator.new_index(DIMENSION, non_filterable=["title"])
    body = {"indexName": index} if vectors is None else {"indexName": index, "vectors": vectors}
    outcome = send(emulator, bucket, "putVectors", body)
    stored = len(emulator.dump(bucket, index))
    assert (outcome, stored) == (expected, len(vectors) if expected == OK else 0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", MALFORMED),
        (b'{"indexName": "vectors", "vectors": [{"key": "k", "data": {"float32": [1,2,3,4]}}]} x', MALFORMED),
        (b'{"indexName": "vectors", "vectors": [{"key": "\\ud800", "data": {"float32": [1,2,3,4]}}]}', MALFORMED),
        (b'{"indexName": "vectors", "vectors": [{"key": "\xff", "data": {"float32": [1,2,3,4]}}]}', MALFORMED),
        (b'{"other": ' + b"[" * 100_000, MALFORMED),
        (b'{"indexName": "vectors", "vectors": [{"key": "k", "data": {"float32": [1e999,2,3,4]}}]}', INVALID),
        (b"[]", INVALID),
        (b"", MISSING),
        (b"{}", MISSING),
    ],
    ids=["cut", "trailing", "surrogate", "no UTF-8", "deep", "beyond float64", "list", "empty", "no index"],
)
def test_put_vectors_body_that_is_no_request(emulator: Emulator, body: bytes, expected: Outcome) -> None:
    bucket, index = emulator.new_index(DIMENSION)
    outcome = send(emulator, bucket, "putVectors", body)
    assert (outcome, emulator.dump(bucket, index)) == (expected, {})


def test_a_batch_with_one_bad_vector_is_refused_whole_and_leaves_what_was_there(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(DIMENSION)
    send(emulator, bucket, "putVectors", {"indexName": index, "vectors": [vector("k0", [9, 9, 9, 9])]})
    bad = [*many(3), vector("bad", [1])]
    outcome = send(emulator, bucket, "putVectors", {"indexName": index, "vectors": bad})
    stored = {key: one.data.tolist() for key, one in emulator.dump(bucket, index).items()}
    assert (outcome, stored) == (INVALID, {"k0": [9.0] * 4})


@pytest.mark.parametrize("numbers", [[0, 0], [1e-60, 0]], ids=["zeros", "zeros as float32"])
def test_zeros_under_cosine_are_answered_as_an_internal_error(emulator: Emulator, numbers: list[float]) -> None:
    bucket, index = emulator.new_index(2, "cosine")
    body = {"indexName": index, "vectors": [vector("a", [1, 1]), vector("b", numbers)]}
    outcome = send(emulator, bucket, "putVectors", body)
    assert (outcome, emulator.dump(bucket, index)) == (INTERNAL, {})


@pytest.mark.parametrize("numbers", [[0, 0], [float("nan"), 1]], ids=["zeros", "NaN"])
def test_bad_vectors_can_be_answered_with_400(emulator: Emulator, numbers: list[float]) -> None:
    bucket, index = emulator.new_index(2, "cosine")
    emulator.limits(bucket=bucket, bad_vectors_status=400)
    outcome = send(emulator, bucket, "putVectors", {"indexName": index, "vectors": [vector("b", numbers)]})
    assert outcome == INVALID


def test_a_body_of_20_mib_passes_and_one_byte_more_does_not(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(DIMENSION)
    body = json.dumps({"indexName": index, "vectors": [vector()]}).encode()
    most = body + b" " * (20 * 1024 * 1024 - len(body))
    at_the_limit = send(emulator, bucket, "putVectors", most)
    beyond = send(emulator, bucket, "putVectors", most + b" ")
    assert (at_the_limit, beyond) == (OK, (413, "EntityTooLarge"))


def test_the_largest_body_can_be_adjusted(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(DIMENSION)
    body = json.dumps({"indexName": index, "vectors": [vector()]}).encode()
    emulator.limits(bucket=bucket, max_body_bytes=len(body))
    outcomes = [send(emulator, bucket, "putVectors", content) for content in (body, body + b" ")]
    assert outcomes == [OK, (413, "EntityTooLarge")]


INDEX_OPERATIONS: list[tuple[str, str, Body, Outcome]] = [
    ("1 key deleted", "deleteVectors", {"keys": keys(1)}, DELETED),
    ("500 keys deleted", "deleteVectors", {"keys": keys(500)}, DELETED),
    ("501 keys deleted", "deleteVectors", {"keys": keys(501)}, INVALID),
    ("no keys deleted", "deleteVectors", {"keys": []}, INVALID),
    ("keys to delete missing", "deleteVectors", {}, MISSING),
    ("the same key deleted twice", "deleteVectors", {"keys": ["a", "b", "a"]}, INVALID),
    ("a key of 1,024 characters deleted", "deleteVectors", {"keys": ["k" * 1024]}, DELETED),
    ("a key of 1,025 characters deleted", "deleteVectors", {"keys": ["k" * 1025]}, INVALID),
    ("an empty key deleted", "deleteVectors", {"keys": [""]}, INVALID),
    ("100 keys got", "getVectors", {"keys": keys(100)}, OK),
    ("101 keys got", "getVectors", {"keys": keys(101)}, INVALID),
    ("no keys got", "getVectors", {"keys": []}, INVALID),
    ("keys to get missing", "getVectors", {}, MISSING),
    ("1 listed", "listVectors", {"maxResults": 1}, OK),
    ("1,000 listed", "listVectors", {"maxResults": 1000}, OK),
    ("1,001 listed", "listVectors", {"maxResults": 1001}, INVALID),
    ("0 listed", "listVectors", {"maxResults": 0}, INVALID),
    ("a token that is none", "listVectors", {"nextToken": "?"}, INVALID),
    ("16 segments", "listVectors", {"segmentCount": 16, "segmentIndex": 15}, OK),
    ("17 segments", "listVectors", {"segmentCount": 17, "segmentIndex": 0}, INVALID),
    ("a segment beyond the count", "listVectors", {"segmentCount": 2, "segmentIndex": 2}, INVALID),
    ("a segment without a count", "listVectors", {"segmentIndex": 0}, MISSING),
    ("top 1", "queryVectors", {"topK": 1}, OK),
    ("top 100", "queryVectors", {"topK": 100}, OK),
    ("top 101", "queryVectors", {"topK": 101}, INVALID),
    ("top 0", "queryVectors", {"topK": 0}, INVALID),
    ("top K missing", "queryVectors", {}, MISSING),
    ("query vector missing", "queryVectors", {"topK": 1, "queryVector": None}, MISSING),
    ("query vector too short", "queryVectors", {"topK": 1, "queryVector": {"float32": [1]}}, INVALID),
    ("filter of 8 levels", "queryVectors", {"topK": 1, "filter": filter_of_depth(8)}, OK),
    ("filter of 9 levels", "queryVectors", {"topK": 1, "filter": filter_of_depth(9)}, INVALID),
    ("1,024 conditions", "queryVectors", {"topK": 1, "filter": {"$or": [{"a": {"$eq": "b"}}] * 1024}}, OK),
    ("1,025 conditions", "queryVectors", {"topK": 1, "filter": {"$or": [{"a": {"$eq": "b"}}] * 1025}}, INVALID),
    ("filter of 64 KB", "queryVectors", {"topK": 1, "filter": {"a": {"$eq": "x" * (65536 - 16)}}}, OK),
    ("filter beyond 64 KB", "queryVectors", {"topK": 1, "filter": {"a": {"$eq": "x" * (65536 - 15)}}}, INVALID),
    ("filter with an unknown operator", "queryVectors", {"topK": 1, "filter": {"a": {"$gt": "b"}}}, INVALID),
    ("filter with an empty list", "queryVectors", {"topK": 1, "filter": {"a": {"$in": []}}}, INVALID),
    ("filter with a bare value", "queryVectors", {"topK": 1, "filter": {"a": "b"}}, INVALID),
    ("filter by a non-filterable key", "queryVectors", {"topK": 1, "filter": {"title": {"$eq": "b"}}}, INVALID),
]


@pytest.mark.parametrize(
    ("operation", "body", "expected"), [row[1:] for row in INDEX_OPERATIONS], ids=[row[0] for row in INDEX_OPERATIONS]
)
def test_limit_of_another_operation(emulator: Emulator, operation: str, body: Body, expected: Outcome) -> None:
    bucket, index = emulator.new_index(DIMENSION, non_filterable=["title"])
    defaults: Body = {"queryVector": {"float32": [1, 2, 3, 4]}} if operation == "queryVectors" else {}
    outcome = send(emulator, bucket, operation, {"indexName": index, **defaults, **body})
    assert outcome == expected


def index_body(**fields: Any) -> Body:
    body = {"indexName": "vectors", "dataType": "float32", "dimension": 4, "distanceMetric": "cosine", **fields}
    return {name: value for name, value in body.items() if value is not None}


NON_FILTERABLE: Callable[[list[str]], Body] = lambda names: {"nonFilterableMetadataKeys": names}  # noqa: E731 - a row's abbreviation

PUT_INDEX: list[tuple[str, Body, Outcome]] = [
    ("dimension 1", index_body(dimension=1), OK),
    ("dimension 4,096", index_body(dimension=4096), OK),
    ("dimension 0", index_body(dimension=0), INVALID),
    ("dimension 4,097", index_body(dimension=4097), INVALID),
    ("no dimension", index_body(dimension=None), MISSING),
    ("euclidean", index_body(distanceMetric="euclidean"), OK),
    ("another metric", index_body(distanceMetric="dot"), INVALID),
    ("no metric", index_body(distanceMetric=None), MISSING),
    ("another type", index_body(dataType="float16"), INVALID),
    ("no type", index_body(dataType=None), MISSING),
    ("a name of 1 letter", index_body(indexName="v"), OK),
    ("a name of 63 characters", index_body(indexName="v" * 63), OK),
    ("a name of 64 characters", index_body(indexName="v" * 64), INVALID),
    ("an empty name", index_body(indexName=""), INVALID),
    ("no name", index_body(indexName=None), MISSING),
    ("a name with a digit first", index_body(indexName="1v"), INVALID),
    ("a name with a hyphen", index_body(indexName="a-b"), INVALID),
    ("a name with a newline", index_body(indexName="a\n"), INVALID),
    ("10 non-filterable keys", index_body(metadata=NON_FILTERABLE(keys(10))), OK),
    ("11 non-filterable keys", index_body(metadata=NON_FILTERABLE(keys(11))), INVALID),
    ("no non-filterable keys", index_body(metadata=NON_FILTERABLE([])), INVALID),
    ("a non-filterable key of 63 characters", index_body(metadata=NON_FILTERABLE(["k" * 63])), OK),
    ("a non-filterable key of 64 characters", index_body(metadata=NON_FILTERABLE(["k" * 64])), INVALID),
]


@pytest.mark.parametrize(("body", "expected"), [row[1:] for row in PUT_INDEX], ids=[row[0] for row in PUT_INDEX])
def test_put_vector_index_limit(emulator: Emulator, body: Body, expected: Outcome) -> None:
    assert send(emulator, emulator.new_bucket(), "putVectorIndex", body) == expected


def test_a_bucket_has_at_most_100_indexes(emulator: Emulator) -> None:
    bucket = emulator.new_bucket()
    outcomes = [send(emulator, bucket, "putVectorIndex", index_body(indexName=f"v{number}")) for number in range(101)]
    assert outcomes == [OK] * 100 + [INVALID]


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("a1z", True), ("a" + "-" * 30 + "z", True), ("a" * 33, False)],
    ids=["3 characters", "32 characters", "33 characters"],
)
def test_bucket_name_limit(emulator: Emulator, name: str, accepted: bool) -> None:
    client = emulator.client(account_id="7")
    outcome: Outcome = OK
    try:
        client.put_vector_bucket(models.PutVectorBucketRequest(bucket=name))
    except exceptions.OperationError as error:
        cause = error.unwrap()
        outcome = cause.status_code, cause.code
    assert outcome == (OK if accepted else (400, "InvalidBucketName"))


def test_requests_beyond_the_rate_are_answered_429_and_change_nothing(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(DIMENSION)
    emulator.limits(bucket=bucket, requests_per_second=0.001)
    outcomes = [
        send(emulator, bucket, "putVectors", {"indexName": index, "vectors": [vector(key)]}) for key in ("a", "b")
    ]
    assert outcomes == [OK, (429, "QpsLimitExceeded")]
    assert set(emulator.dump(bucket, index)) == {"a"}


def test_vectors_beyond_the_rate_are_answered_429(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(DIMENSION)
    emulator.limits(bucket=bucket, index=index, vectors_per_second=0.01)
    other = emulator.new_index(DIMENSION, bucket=bucket, index="unlimited")[1]
    outcomes = [
        send(emulator, bucket, "putVectors", {"indexName": name, "vectors": many(10)})
        for name in (index, index, other, other)
    ]
    assert outcomes == [OK, (429, "QpsLimitExceeded"), OK, OK]
