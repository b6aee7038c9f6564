"""The emulator as a process: what it keeps, how it starts and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from alibabacloud_oss_v2 import exceptions
from alibabacloud_oss_v2.vectors import models

from tests.support.bounded import join, running, thread
from tests.support.emulator import Emulator, running_emulator


def put(emulator: Emulator, target: tuple[str, str], key: str, numbers: list[float], **metadata: str) -> None:
    vector = {"key": key, "data": {"float32": numbers}, "metadata": metadata}
    emulator.client().put_vectors(models.PutVectorsRequest(bucket=target[0], index_name=target[1], vectors=[vector]))


def test_everything_that_was_answered_survives_kill_9(tmp_path: Path) -> None:
    with running_emulator(tmp_path) as first:
        target = first.new_index(2, "cosine", non_filterable=["title"])
        for number in range(20):
            put(first, target, f"k\0{number}", [0.1, float(number)], title="t")
        first.client().delete_vectors(
            models.DeleteVectorsRequest(bucket=target[0], index_name=target[1], keys=["k\x000"])
        )
        put(first, target, "k\x001", [9.0, 9.0])
        described = first.client().get_vector_index(
            models.GetVectorIndexRequest(bucket=target[0], index_name=target[1])
        )
        before = first.dump(*target)
        os.kill(first.pid, signal.SIGKILL)
    with running_emulator(tmp_path) as second:
        after = second.dump(*target)
        again = second.client().get_vector_index(models.GetVectorIndexRequest(bucket=target[0], index_name=target[1]))
        listed = second.client().list_vectors(models.ListVectorsRequest(bucket=target[0], index_name=target[1])).vectors
    assert set(after) == {f"k\0{number}" for number in range(1, 20)}
    assert after["k\x001"].data.tolist() == [9.0, 9.0]
    assert [np.array_equal(after[key].data, before[key].data) for key in before] == [True] * 19
    assert {key: one.metadata for key, one in after.items()} == {key: one.metadata for key, one in before.items()}
    assert again.index == described.index
    assert len(listed) == 19


def test_deleted_indexes_and_buckets_stay_deleted_over_a_restart(tmp_path: Path) -> None:
    with running_emulator(tmp_path) as first:
        bucket, index = first.new_index(2)
        emptied = first.new_bucket()
        put(first, (bucket, index), "k", [1.0, 2.0])
        first.client().delete_vector_index(models.DeleteVectorIndexRequest(bucket=bucket, index_name=index))
        first.client().delete_vector_bucket(models.DeleteVectorBucketRequest(bucket=emptied))
    with running_emulator(tmp_path) as second:
        buckets = second.client().list_vector_buckets(models.ListVectorBucketsRequest()).buckets
        indexes = second.client().list_vector_indexes(models.ListVectorIndexesRequest(bucket=bucket)).indexes
    assert ([one.name.rpartition(":")[2] for one in buckets], indexes) == ([bucket], [])


def test_without_a_directory_nothing_is_kept() -> None:
    with running_emulator() as first:
        bucket = first.new_bucket()
    with running_emulator() as second, pytest.raises(exceptions.OperationError) as caught:
        second.client().get_vector_bucket(models.GetVectorBucketRequest(bucket=bucket))
    assert caught.value.unwrap().code == "NoSuchBucket"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "worker", "local", "emulator", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_port_in_use_ends_it_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--port", str(port))
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert f"127.0.0.1:{port}" in ended.stderr


def test_a_directory_in_use_ends_the_second_with_one_line(tmp_path: Path) -> None:
    with running_emulator(tmp_path):
        ended = run("--port", "0", "--data", str(tmp_path))
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert str(tmp_path) in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0_also_while_requests_hang(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "worker", "local", "emulator", "--port", "0"]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        emulator = Emulator(port=int(process.stdout.readline().rpartition(":")[2]), pid=process.pid)
        target = emulator.new_index(2)
        emulator.fault(operation="PutVectors", hang=True)
        failures: list[Exception] = []

        def hanging() -> None:
            try:
                put(emulator, target, "k", [1.0, 2.0])
            except exceptions.OperationError as error:
                failures.append(error)

        request = thread(hanging)
        while not any(entry.operation == "PutVectors" for entry in emulator.requests()):
            time.sleep(0.01)
        process.send_signal(number)
        signalled = time.monotonic()
        _, errors = process.communicate(timeout=30)
        lasted = time.monotonic() - signalled
        join(request)
        emulator.session.close()
    assert (process.returncode, len(failures)) == (0, 1)
    assert "Traceback" not in errors
    assert lasted < 10.0


def test_a_reset_leaves_nothing() -> None:
    with running_emulator() as emulator:
        bucket, _ = emulator.new_index(2)
        emulator.fault(bucket=bucket, status=503)
        emulator.session.post(f"{emulator.url}/_emulator/reset", timeout=10)
        with pytest.raises(exceptions.OperationError) as caught:
            emulator.client().get_vector_bucket(models.GetVectorBucketRequest(bucket=bucket))
        faults = emulator.faults()
    assert (caught.value.unwrap().code, faults) == ("NoSuchBucket", [])


def test_health_is_answered(emulator: Emulator) -> None:
    response = emulator.session.get(f"{emulator.url}/_emulator/health", timeout=10)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_it_listens_on_another_address_when_the_environment_says_so() -> None:
    command = [sys.executable, "-m", "worker", "local", "emulator", "--port", "0"]
    environment = os.environ | {"OSS_EMULATOR_HOST": "127.0.0.2"}
    with running(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        address, _, port = process.stdout.readline().rpartition("http://")[2].partition(":")
        with socket.create_connection(("127.0.0.2", int(port)), timeout=10):
            process.terminate()
    assert (address, process.returncode) == ("127.0.0.2", 0)
