"""The bucket and the index of a local stack, made on the emulator."""

import itertools
import os
import subprocess
import sys
import uuid
from typing import Any

import pytest
from alibabacloud_oss_v2.vectors import models

from tests.support.emulator import Emulator
from worker.local import provision as module
from worker.local.provision import ProvisionError, provision

_names = itertools.count(1)


def new_bucket_name() -> str:
    return f"p{next(_names)}-{uuid.uuid4().hex[:12]}"


def wanted(emulator: Emulator, **changes: Any) -> dict[str, Any]:
    """What `provision` takes, for a bucket that is not there yet."""
    return {
        "endpoint": emulator.url,
        "region": emulator.region,
        "account_id": emulator.account,
        "bucket": new_bucket_name(),
        "index": "docs",
        "dimension": 3,
        "distance_metric": "cosine",
        "access_key_id": emulator.access_key_id,
        "access_key_secret": emulator.access_key_secret,
    } | changes


def described(emulator: Emulator, bucket: str, index: str = "docs") -> tuple[int, str]:
    answer = emulator.client().get_vector_index(models.GetVectorIndexRequest(bucket=bucket, index_name=index))
    return answer.index["dimension"], answer.index["distanceMetric"]


def test_bucket_and_index_are_made(emulator: Emulator) -> None:
    target = wanted(emulator)

    made = provision(**target)

    assert made == ["bucket", "index"]
    assert described(emulator, target["bucket"]) == (3, "cosine")


def test_what_is_there_is_left_as_it_is(emulator: Emulator) -> None:
    target = wanted(emulator)
    provision(**target)
    vector = {"key": "k", "data": {"float32": [1.0, 2.0, 3.0]}}
    emulator.client().put_vectors(
        models.PutVectorsRequest(bucket=target["bucket"], index_name="docs", vectors=[vector])
    )

    made = provision(**target)

    assert made == []
    assert list(emulator.dump(target["bucket"], "docs")) == ["k"]


def test_an_index_is_added_to_a_bucket_that_is_there(emulator: Emulator) -> None:
    target = wanted(emulator)
    provision(**target)

    made = provision(**target | {"index": "other", "distance_metric": "euclidean"})

    assert made == ["index"]
    assert described(emulator, target["bucket"], "other") == (3, "euclidean")


@pytest.mark.parametrize("other", [{"dimension": 4}, {"distance_metric": "euclidean"}])
def test_an_index_of_another_shape_is_refused(emulator: Emulator, other: dict[str, Any]) -> None:
    target = wanted(emulator)
    provision(**target)

    with pytest.raises(ProvisionError, match="the index is there with dimension 3 and metric cosine"):
        provision(**target | other)


def test_an_index_is_waited_for_until_it_takes_writes(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    target = wanted(emulator)
    emulator.limits(bucket=target["bucket"], creating_seconds=0.5)
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.02)

    provision(**target)

    vector = {"key": "k", "data": {"float32": [1.0, 2.0, 3.0]}}
    answer = emulator.client().put_vectors(
        models.PutVectorsRequest(bucket=target["bucket"], index_name="docs", vectors=[vector])
    )
    assert answer.status_code == 200


def test_a_service_that_fails_at_first_is_asked_again(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    target = wanted(emulator)
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.01)
    emulator.fault(bucket=target["bucket"], status=503, code="ServiceUnavailable", count=2)

    made = provision(**target)

    assert made == ["bucket", "index"]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"access_key_secret": "wrong"}, "403 SignatureDoesNotMatch"), ({"access_key_id": ""}, "OSS_ACCESS_KEY_ID")],
)
def test_wrong_credentials_are_told(emulator: Emulator, change: dict[str, str], told: str) -> None:
    with pytest.raises(ProvisionError, match=told):
        provision(**wanted(emulator, **change))


def run(emulator: Emulator, bucket: str, secret: str = "test") -> "subprocess.CompletedProcess[str]":
    options = {"endpoint": emulator.url, "bucket": bucket, "account-id": emulator.account, "index": "docs"}
    options |= {"dimension": "3", "distance-metric": "cosine"}
    command = [
        sys.executable,
        "-m",
        "worker.local.provision",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    credentials = {"OSS_ACCESS_KEY_ID": emulator.access_key_id, "OSS_ACCESS_KEY_SECRET": secret}
    return subprocess.run(
        command, env=os.environ | credentials, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_command_says_what_it_made(emulator: Emulator) -> None:
    bucket = new_bucket_name()

    ended = [run(emulator, bucket) for _ in range(2)]

    assert [(one.returncode, one.stdout, one.stderr) for one in ended] == [
        (0, f"bucket {bucket}, index docs: bucket and index made\n", ""),
        (0, f"bucket {bucket}, index docs: there already\n", ""),
    ]


def test_the_command_fails_with_one_line(emulator: Emulator) -> None:
    ended = run(emulator, new_bucket_name(), secret="wrong")

    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert ended.stderr.startswith("error: 403 ")
