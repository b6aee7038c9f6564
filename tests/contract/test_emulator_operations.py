"""The official SDK's client passes every operation against the emulator."""

import time
from typing import Any

import numpy as np
import pytest
from alibabacloud_oss_v2 import exceptions
from alibabacloud_oss_v2.vectors import models

from tests.support.emulator import ACCOUNT, REGION, Emulator

Vectors = list[dict[str, Any]]

SHELF: Vectors = [
    {"key": "a", "data": {"float32": [1.0, 0.0]}, "metadata": {"type": "comedy", "year": "2020"}},
    {"key": "b", "data": {"float32": [0.8, 0.6]}, "metadata": {"type": ["drama", "comedy"], "year": "2021"}},
    {"key": "c", "data": {"float32": [0.0, 2.0]}, "metadata": {"type": "documentary"}},
    {"key": "d", "data": {"float32": [-3.0, 0.0]}},
]


def put(emulator: Emulator, target: tuple[str, str], vectors: Vectors) -> Any:
    bucket, index = target
    return emulator.client().put_vectors(models.PutVectorsRequest(bucket=bucket, index_name=index, vectors=vectors))


def service_error(caught: pytest.ExceptionInfo[exceptions.OperationError]) -> tuple[int, str]:
    error = caught.value.unwrap()
    assert isinstance(error, exceptions.ServiceError)
    return error.status_code, error.code


def test_put_vectors_are_stored_exactly_and_answered_without_a_body(emulator: Emulator) -> None:
    target = emulator.new_index(2)
    result = put(emulator, target, SHELF)
    assert (result.status_code, len(result.request_id)) == (200, 24)
    stored = emulator.dump(*target)
    assert {key: vector.data.tolist() for key, vector in stored.items()} == {
        vector["key"]: np.array(vector["data"]["float32"], dtype=np.float32).tolist() for vector in SHELF
    }
    assert {key: vector.metadata for key, vector in stored.items()} == {
        vector["key"]: vector.get("metadata") for vector in SHELF
    }


def test_putting_an_existing_key_replaces_vector_and_metadata(emulator: Emulator) -> None:
    target = emulator.new_index(2)
    put(emulator, target, SHELF)
    put(emulator, target, [{"key": "a", "data": {"float32": [5.0, 6.0]}}])
    stored = emulator.dump(*target)
    assert (len(stored), stored["a"].data.tolist(), stored["a"].metadata) == (4, [5.0, 6.0], None)


def test_get_vectors_leaves_absent_keys_out_and_returns_what_is_asked_for(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    put(emulator, (bucket, index), SHELF)
    client = emulator.client()
    keys = ["a", "absent", "d"]
    bare = client.get_vectors(models.GetVectorsRequest(bucket=bucket, index_name=index, keys=keys))
    assert bare.vectors == [{"key": "a"}, {"key": "d"}]
    request = models.GetVectorsRequest(
        bucket=bucket, index_name=index, keys=keys, return_data=True, return_metadata=True
    )
    assert client.get_vectors(request).vectors == [SHELF[0], SHELF[3]]


def test_delete_vectors_answers_204_also_for_an_absent_key(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    put(emulator, (bucket, index), SHELF)
    request = models.DeleteVectorsRequest(bucket=bucket, index_name=index, keys=["a", "absent"])
    result = emulator.client().delete_vectors(request)
    assert result.status_code == 204
    assert set(emulator.dump(bucket, index)) == {"b", "c", "d"}


def test_list_vectors_pages_through_all_keys_once(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(1)
    keys = {f"k{number}" for number in range(25)}
    put(emulator, (bucket, index), [{"key": key, "data": {"float32": [1]}} for key in keys])
    request = models.ListVectorsRequest(bucket=bucket, index_name=index, max_results=10, return_data=True)
    pages = [page.vectors for page in emulator.client().list_vectors_paginator().iter_page(request)]
    listed = [vector["key"] for page in pages for vector in page]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert sorted(listed) == sorted(keys)
    assert pages[0][0]["data"] == {"float32": [1.0]}


def test_list_vectors_segments_are_disjoint_and_complete(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(1)
    keys = {f"k{number}" for number in range(60)}
    put(emulator, (bucket, index), [{"key": key, "data": {"float32": [1]}} for key in keys])
    client = emulator.client()
    segments = [
        client.list_vectors(
            models.ListVectorsRequest(bucket=bucket, index_name=index, segment_count=4, segment_index=number)
        ).vectors
        for number in range(4)
    ]
    listed = [vector["key"] for segment in segments for vector in segment]
    assert sorted(listed) == sorted(keys)
    assert [len(segment) > 0 for segment in segments] == [True] * 4


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("euclidean", [("a", 0.0), ("b", 0.4**0.5), ("c", 5.0**0.5), ("d", 4.0)]),
        ("cosine", [("a", 0.0), ("b", 0.2), ("c", 1.0), ("d", 2.0)]),
    ],
)
def test_query_vectors_returns_the_exact_nearest_first(
    emulator: Emulator, metric: str, expected: list[tuple[str, float]]
) -> None:
    bucket, index = emulator.new_index(2, metric)
    put(emulator, (bucket, index), SHELF)
    request = models.QueryVectorsRequest(
        bucket=bucket, index_name=index, query_vector={"float32": [1.0, 0.0]}, top_k=4, return_distance=True
    )
    found = emulator.client().query_vectors(request).vectors
    assert [vector["key"] for vector in found] == [key for key, _ in expected]
    assert [vector["distance"] for vector in found] == pytest.approx([at for _, at in expected], abs=1e-6)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, "abcd"),
        ({"type": {"$eq": "comedy"}}, "ab"),
        ({"type": {"$ne": "comedy"}}, "cd"),
        ({"type": {"$in": ["drama", "documentary"]}}, "bc"),
        ({"type": {"$nin": ["drama", "documentary"]}}, "ad"),
        ({"year": {"$exists": True}}, "ab"),
        ({"year": {"$exists": False}}, "cd"),
        ({"$and": [{"type": {"$in": ["comedy", "documentary"]}}, {"year": {"$eq": "2020"}}]}, "a"),
        ({"$or": [{"year": {"$eq": "2021"}}, {"type": {"$eq": "documentary"}}]}, "bc"),
        ({"type": {"$eq": "comedy"}, "year": {"$eq": "2021"}}, "b"),
        ({"year": {"$exists": True, "$ne": "2020"}}, "b"),
    ],
)
def test_query_vectors_filters_by_metadata(emulator: Emulator, where: dict[str, Any] | None, expected: str) -> None:
    bucket, index = emulator.new_index(2)
    put(emulator, (bucket, index), SHELF)
    request = models.QueryVectorsRequest(
        bucket=bucket, index_name=index, query_vector={"float32": [1.0, 0.0]}, top_k=10, filter=where
    )
    found = emulator.client().query_vectors(request).vectors
    assert sorted(vector["key"] for vector in found) == sorted(expected)


def test_query_vectors_returns_metadata_and_no_more_than_top_k(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    put(emulator, (bucket, index), SHELF)
    request = models.QueryVectorsRequest(
        bucket=bucket, index_name=index, query_vector={"float32": [1.0, 0.0]}, top_k=1, return_metadata=True
    )
    found = emulator.client().query_vectors(request).vectors
    assert found == [{"key": "a", "metadata": SHELF[0]["metadata"]}]


def test_get_vector_index_describes_it_as_it_was_created(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(7, "cosine", non_filterable=["title", "_body"])
    result = emulator.client().get_vector_index(models.GetVectorIndexRequest(bucket=bucket, index_name=index))
    created = result.index.pop("createTime")
    assert result.index == {
        "indexName": index,
        "dimension": 7,
        "distanceMetric": "cosine",
        "dataType": "float32",
        "status": "enable",
        "metadata": {"nonFilterableMetadataKeys": ["title", "_body"]},
    }
    assert created.startswith(time.strftime("%Y-", time.gmtime()))


def test_list_vector_indexes_pages_by_prefix(emulator: Emulator) -> None:
    bucket = emulator.new_bucket()
    for name in ("beta", "alpha1", "alpha2", "alpha3"):
        emulator.new_index(2, bucket=bucket, index=name)
    request = models.ListVectorIndexesRequest(bucket=bucket, prefix="alpha", max_results=2)
    pages = list(emulator.client().list_vector_indexes_paginator().iter_page(request))
    names = [[index["indexName"] for index in page.indexes] for page in pages]
    assert names == [["alpha1", "alpha2"], ["alpha3"]]


def test_delete_vector_index_takes_its_vectors_along(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    put(emulator, (bucket, index), SHELF)
    client = emulator.client()
    deleted = client.delete_vector_index(models.DeleteVectorIndexRequest(bucket=bucket, index_name=index))
    with pytest.raises(exceptions.OperationError) as caught:
        client.get_vector_index(models.GetVectorIndexRequest(bucket=bucket, index_name=index))
    emulator.new_index(2, bucket=bucket, index=index)
    assert deleted.status_code == 204
    assert service_error(caught) == (404, "NoSuchVectorIndex")
    assert emulator.dump(bucket, index) == {}


def test_get_vector_bucket_describes_it(emulator: Emulator) -> None:
    bucket = emulator.new_bucket()
    info = emulator.client().get_vector_bucket(models.GetVectorBucketRequest(bucket=bucket)).bucket_info
    assert (info.name, info.region) == (f"acs:ossvector:{REGION}:{ACCOUNT}:{bucket}", REGION)
    assert abs(info.creation_date.timestamp() - time.time()) < 60


def test_list_vector_buckets_pages_by_prefix(emulator: Emulator) -> None:
    names = sorted(emulator.new_bucket() for _ in range(3))
    client = emulator.client()
    listed = [
        bucket.name.rpartition(":")[2]
        for name in names
        for bucket in client.list_vector_buckets(models.ListVectorBucketsRequest(prefix=name)).buckets
    ]
    first = client.list_vector_buckets(models.ListVectorBucketsRequest(max_keys=1))
    assert listed == names
    assert (len(first.buckets), first.is_truncated) == (1, True)


def test_delete_vector_bucket_refuses_one_with_indexes_and_deletes_an_empty_one(emulator: Emulator) -> None:
    bucket, index = emulator.new_index()
    client = emulator.client()
    with pytest.raises(exceptions.OperationError) as caught:
        client.delete_vector_bucket(models.DeleteVectorBucketRequest(bucket=bucket))
    client.delete_vector_index(models.DeleteVectorIndexRequest(bucket=bucket, index_name=index))
    deleted = client.delete_vector_bucket(models.DeleteVectorBucketRequest(bucket=bucket))
    with pytest.raises(exceptions.OperationError) as gone:
        client.get_vector_bucket(models.GetVectorBucketRequest(bucket=bucket))
    assert service_error(caught) == (409, "BucketNotEmpty")
    assert deleted.status_code == 204
    assert service_error(gone) == (404, "NoSuchBucket")


def test_an_index_or_bucket_that_exists_is_not_created_again(emulator: Emulator) -> None:
    bucket, index = emulator.new_index()
    with pytest.raises(exceptions.OperationError) as again:
        emulator.new_index(bucket=bucket, index=index)
    with pytest.raises(exceptions.OperationError) as bucket_again:
        emulator.client().put_vector_bucket(models.PutVectorBucketRequest(bucket=bucket))
    assert service_error(again) == (409, "VectorBucketIndexAlreadyExist")
    assert service_error(bucket_again) == (409, "BucketAlreadyExists")


def test_a_missing_target_is_told_apart(emulator: Emulator) -> None:
    bucket = emulator.new_bucket()
    with pytest.raises(exceptions.OperationError) as no_index:
        put(emulator, (bucket, "absent"), SHELF)
    with pytest.raises(exceptions.OperationError) as no_bucket:
        put(emulator, ("absent-bucket", "absent"), SHELF)
    assert service_error(no_index) == (404, "NoSuchVectorIndex")
    assert service_error(no_bucket) == (404, "NoSuchBucket")


def test_the_same_bucket_name_of_two_accounts_is_two_buckets(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    put(emulator, (bucket, index), SHELF)
    other = emulator.client(account_id="42")
    with pytest.raises(exceptions.OperationError) as caught:
        other.get_vector_bucket(models.GetVectorBucketRequest(bucket=bucket))
    assert service_error(caught) == (404, "NoSuchBucket")


def test_a_write_becomes_readable_after_the_visibility_delay(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    emulator.limits(bucket=bucket, visibility_seconds=3600)
    put(emulator, (bucket, index), SHELF)
    found = emulator.client().list_vectors(models.ListVectorsRequest(bucket=bucket, index_name=index)).vectors
    assert found == []
    assert set(emulator.dump(bucket, index)) == {"a", "b", "c", "d"}


def test_a_new_index_is_creating_and_refuses_writes_as_long_as_the_limit_says(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    emulator.limits(bucket=bucket, creating_seconds=3600)
    client = emulator.client()
    request = models.GetVectorIndexRequest(bucket=bucket, index_name=index)
    before = client.get_vector_index(request).index["status"]
    with pytest.raises(exceptions.OperationError) as caught:
        put(emulator, (bucket, index), SHELF)
    emulator.limits(bucket=bucket, creating_seconds=0)
    after = client.get_vector_index(request).index["status"]
    put(emulator, (bucket, index), SHELF)
    assert (before, after) == ("creating", "enable")
    assert service_error(caught) == (500, "InternalError")
