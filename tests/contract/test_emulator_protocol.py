"""Signatures, hosts, error answers, and the documented program unchanged."""

import base64
import datetime as dt
import hashlib
import os
import re
import subprocess
import sys
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import alibabacloud_oss_v2 as oss
import pytest
import requests
from alibabacloud_oss_v2 import exceptions
from alibabacloud_oss_v2.types import CaseInsensitiveDict, OperationInput
from alibabacloud_oss_v2.vectors import models

from tests.support.emulator import ACCOUNT, REGION, Emulator, running_emulator
from worker.local.emulator import signature
from worker.local.emulator.errors import Refusal

NOW = dt.datetime(2026, 5, 4, 3, 2, 1, tzinfo=dt.UTC)
KEYS = signature.AccessKeys(signature.KeyPair("test", "test"))


def list_with(emulator: Emulator, target: tuple[str, str], **settings: Any) -> Any:
    bucket, index = target
    return emulator.client(**settings).list_vectors(models.ListVectorsRequest(bucket=bucket, index_name=index))


def refusal(emulator: Emulator, target: tuple[str, str], **settings: Any) -> tuple[int, str]:
    with pytest.raises(exceptions.OperationError) as caught:
        list_with(emulator, target, **settings)
    error = caught.value.unwrap()
    return error.status_code, error.code


def test_a_good_signature_is_accepted_for_any_region_and_with_a_security_token(emulator: Emulator) -> None:
    target = emulator.new_index()
    credentials = oss.credentials.StaticCredentialsProvider("test", "test", "a-token")
    result = list_with(emulator, target, region="ap-southeast-1", credentials_provider=credentials)
    assert result.status_code == 200


def test_additional_signed_headers_are_covered_by_the_signature(emulator: Emulator) -> None:
    result = list_with(emulator, emulator.new_index(), additional_headers=["host", "user-agent"])
    assert result.status_code == 200


@pytest.mark.parametrize(
    ("access_key_id", "secret", "expected"),
    [
        ("test", "wrong", (403, "SignatureDoesNotMatch")),
        ("unknown", "test", (403, "InvalidAccessKeyId")),
    ],
)
def test_wrong_credentials_are_refused(
    emulator: Emulator, access_key_id: str, secret: str, expected: tuple[int, str]
) -> None:
    credentials = oss.credentials.StaticCredentialsProvider(access_key_id, secret)
    assert refusal(emulator, emulator.new_index(), credentials_provider=credentials) == expected


def test_access_keys_are_replaced_at_run_time_and_a_reset_brings_the_first_back() -> None:
    with running_emulator() as emulator:
        target = emulator.new_index()
        new = oss.credentials.StaticCredentialsProvider("new", "secret")
        emulator.accept_keys({"test": "test", "new": "secret"})
        assert list_with(emulator, target).status_code == 200
        assert list_with(emulator, target, credentials_provider=new).status_code == 200
        emulator.accept_keys({"new": "secret"})
        assert refusal(emulator, target) == (403, "InvalidAccessKeyId")
        assert list_with(emulator, target, credentials_provider=new).status_code == 200
        emulator.accept_keys({"new": "another"})
        assert refusal(emulator, target, credentials_provider=new) == (403, "SignatureDoesNotMatch")
        keys = f"{emulator.url}/_emulator/keys"
        assert emulator.session.put(keys, json={"keys": [{"id": "x"}]}, timeout=10).status_code == 400
        assert emulator.session.get(keys, timeout=10).json() == {"ids": ["new"]}
        emulator.session.delete(keys, timeout=10)
        assert list_with(emulator, target).status_code == 200
        emulator.accept_keys({})
        emulator.session.post(f"{emulator.url}/_emulator/reset", timeout=10)
        assert emulator.new_index()


def test_an_unsigned_request_is_refused(emulator: Emulator) -> None:
    anonymous = oss.credentials.AnonymousCredentialsProvider()
    assert refusal(emulator, emulator.new_index(), credentials_provider=anonymous) == (403, "AccessDenied")


def test_a_signature_for_another_bucket_is_refused(emulator: Emulator) -> None:
    bucket, _ = emulator.new_index()
    request = signed_request("putVectors", "other-bucket", dt.datetime.now(dt.UTC))
    url = f"http://{bucket}-{ACCOUNT}.localhost:{emulator.port}/?putVectors"
    response = emulator.session.post(url, data=b"{}", headers=dict(request.headers), timeout=10)
    assert (response.status_code, response.json()["Error"]["Code"]) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("query", ["putVectors", "putVectors="])
def test_the_operation_is_named_with_and_without_an_equals_sign(emulator: Emulator, query: str) -> None:
    bucket, index = emulator.new_index(2)
    request = signed_request("putVectors", bucket, dt.datetime.now(dt.UTC))
    url = f"http://{bucket}-{ACCOUNT}.localhost:{emulator.port}/?{query}"
    body = {"indexName": index, "vectors": [{"key": "k", "data": {"float32": [1, 2]}}]}
    response = emulator.session.post(url, json=body, headers=dict(request.headers), timeout=10)
    assert (response.status_code, response.content, set(emulator.dump(bucket, index))) == (200, b"", {"k"})


def signed_request(query: str, bucket: str, at: dt.datetime, **headers: str) -> signature.SignedRequest:
    """A request that the official SDK's signer signed at a given time."""
    from alibabacloud_oss_v2.signer.vectors_v4 import VectorsSignerV4
    from alibabacloud_oss_v2.types import HttpRequest, SigningContext

    request = HttpRequest("POST", f"http://{bucket}-{ACCOUNT}.localhost/?{query}=")
    request.headers.update({"Content-Type": "application/json", **headers})
    context = SigningContext(
        product="oss",
        region=REGION,
        bucket=bucket,
        request=request,
        credentials=oss.credentials.Credentials("test", "test"),
        signing_time=at,
    )
    VectorsSignerV4(ACCOUNT).sign(context)
    lower = {name.lower(): value for name, value in request.headers.items()}
    return signature.SignedRequest("POST", f"{query}=", lower, ACCOUNT, bucket)


@pytest.mark.parametrize("seconds", [-900, 0, 900])
def test_a_clock_up_to_15_minutes_off_is_accepted(seconds: int) -> None:
    request = signed_request("putVectors", "bucket", NOW + dt.timedelta(seconds=seconds))
    assert signature.verify(request, KEYS, NOW) == REGION


@pytest.mark.parametrize("seconds", [-901, 901])
def test_a_clock_further_off_is_refused(seconds: int) -> None:
    request = signed_request("putVectors", "bucket", NOW + dt.timedelta(seconds=seconds))
    with pytest.raises(Refusal) as caught:
        signature.verify(request, KEYS, NOW)
    assert (caught.value.status, caught.value.code) == (403, "RequestTimeTooSkewed")


@pytest.mark.parametrize("header", ["content-type", "content-md5", "x-oss-other"])
def test_a_signed_header_that_was_changed_breaks_the_signature(header: str) -> None:
    request = signed_request("putVectors", "bucket", NOW, **{"Content-MD5": "md5", "x-oss-other": "a"})
    changed = {**request.headers, header: "changed"}
    tampered = signature.SignedRequest(request.method, request.query, changed, request.account, request.bucket)
    with pytest.raises(Refusal) as caught:
        signature.verify(tampered, KEYS, NOW)
    assert (signature.verify(request, KEYS, NOW), caught.value.code) == (REGION, "SignatureDoesNotMatch")


@pytest.mark.parametrize(
    "header",
    ["", "Basic abc", "OSS4-HMAC-SHA256 Credential=test/20260504/r/oss/aliyun_v4_request", "OSS4-HMAC-SHA256 a=b,c"],
)
def test_an_authorization_header_that_cannot_be_read_is_refused(header: str) -> None:
    request = signature.SignedRequest("POST", "putVectors", {"authorization": header}, ACCOUNT, "bucket")
    with pytest.raises(Refusal) as caught:
        signature.verify(request, KEYS, NOW)
    assert (caught.value.status, caught.value.code) == (403, "AccessDenied")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(b'{"indexName": "vectors"}', (200, None)), (b'{"indexName": "tampered"}', (400, "InvalidDigest"))],
)
def test_content_md5_protects_the_body(emulator: Emulator, sent: bytes, expected: tuple[int, str | None]) -> None:
    bucket, _ = emulator.new_index(2)
    md5 = base64.b64encode(hashlib.md5(b'{"indexName": "vectors"}').digest()).decode()
    request = OperationInput(
        op_name="ListVectors",
        method="POST",
        headers=CaseInsensitiveDict({"Content-Type": "application/json", "Content-MD5": md5}),
        parameters={"listVectors": ""},
        bucket=bucket,
        body=sent,
    )
    outcome: tuple[int, str | None]
    try:
        outcome = emulator.client().invoke_operation(request).http_response.status_code, None
    except exceptions.OperationError as error:
        outcome = error.unwrap().status_code, error.unwrap().code
    assert outcome == expected


def test_an_error_carries_what_the_service_documents(emulator: Emulator) -> None:
    with pytest.raises(exceptions.OperationError) as caught:
        list_with(emulator, (emulator.new_bucket(), "absent"))
    error = caught.value.unwrap()
    assert re.fullmatch("[0-9A-F]{24}", error.request_id) is not None
    assert (error.request_id, error.ec) == (error.headers["x-oss-request-id"], error.headers["x-oss-ec"])
    assert error.headers["Content-Type"] == "application/json"
    assert abs((parsedate_to_datetime(error.headers["Date"]) - dt.datetime.now(dt.UTC)).total_seconds()) < 60
    assert error.message == "The specified vector index does not exist."


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost:9", "bucket-1234567890", "bucket.localhost"])
def test_a_host_that_names_no_bucket_is_told_what_is_expected(emulator: Emulator, host: str) -> None:
    response = requests.post(f"{emulator.url}/?putVectors", headers={"Host": host}, data=b"{}", timeout=10)
    error = response.json()["Error"]
    assert (response.status_code, error["Code"]) == (400, "InvalidArgument")
    assert "{bucket}-{accountId}." in error["Message"]


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/?putVectors", (405, "MethodNotAllowed")),
        ("POST", "/?unknown", (400, "InvalidArgument")),
        ("POST", "/?putVectors&getVectors", (400, "InvalidArgument")),
        ("POST", "/object?putVectors", (400, "InvalidArgument")),
    ],
)
def test_a_request_for_no_operation_is_refused(
    emulator: Emulator, method: str, target: str, expected: tuple[int, str]
) -> None:
    url = f"http://bucket-1234567890.localhost:{emulator.port}{target}"
    response = emulator.session.request(method, url, timeout=10)
    assert (response.status_code, response.json()["Error"]["Code"]) == expected


# As the service's documentation shows it for the Python SDK: arguments, credentials from the environment, one call.
PROGRAM = """
import argparse
import alibabacloud_oss_v2 as oss
import alibabacloud_oss_v2.vectors as oss_vectors

arguments = argparse.ArgumentParser(description="put vectors")
for name, required in (("region", 1), ("bucket", 1), ("endpoint", 0), ("index_name", 1), ("account_id", 1)):
    arguments.add_argument(f"--{name}", required=bool(required))


def main():
    args = arguments.parse_args()
    config = oss.config.load_default()
    config.credentials_provider = oss.credentials.EnvironmentVariableCredentialsProvider()
    config.region = args.region
    config.account_id = args.account_id
    if args.endpoint is not None:
        config.endpoint = args.endpoint
    client = oss_vectors.Client(config)
    vectors = [
        {"data": {"float32": [0.1] * 128}, "key": "key1", "metadata": {"metadata1": "value1", "metadata2": "value2"}},
        {"data": {"float32": [0.2] * 128}, "key": "key2", "metadata": {"metadata3": "value3", "metadata4": "value4"}},
    ]
    request = oss_vectors.models.PutVectorsRequest(bucket=args.bucket, index_name=args.index_name, vectors=vectors)
    result = client.put_vectors(request)
    print(f"status code: {result.status_code}, request id: {result.request_id}")


if __name__ == "__main__":
    main()
"""

# Stands for the line in the hosts file that a machine without a resolver for *.localhost needs.
RESOLVER = """
import socket

resolve = socket.getaddrinfo


def getaddrinfo(host, *args, **kwargs):
    return resolve("127.0.0.1" if str(host).endswith(".localhost") else host, *args, **kwargs)


socket.getaddrinfo = getaddrinfo
"""


def test_the_documented_program_runs_unchanged(emulator: Emulator, tmp_path: Path) -> None:
    bucket, index = emulator.new_index(128)
    program = tmp_path / "put_vectors.py"
    program.write_text(PROGRAM)
    (tmp_path / "sitecustomize.py").write_text(RESOLVER)
    arguments = ["--region", REGION, "--bucket", bucket, "--endpoint", emulator.endpoint]
    arguments += ["--index_name", index, "--account_id", ACCOUNT]
    # A proxy of this machine is not to be asked for a name that exists only here.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"OSS_ACCESS_KEY_ID": "test", "OSS_ACCESS_KEY_SECRET": "test", "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, str(program), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    stored = {key: (set(one.data.tolist()), one.metadata) for key, one in emulator.dump(bucket, index).items()}
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("status code: 200, request id: ")
    assert stored == {
        "key1": ({0.10000000149011612}, {"metadata1": "value1", "metadata2": "value2"}),
        "key2": ({0.20000000298023224}, {"metadata3": "value3", "metadata4": "value4"}),
    }
