"""The emulator of the OSS vector service, one process for each test run.

Tests share it: each makes its own bucket and index with `new_index`, and a fault or limit that is given the bucket
hits nothing of another test. The SDK's host names, `{bucket}-{account}.localhost`, do not resolve on every machine, so
the client here connects to the loopback address and keeps the name in the Host header (`LoopbackAdapter`).
"""

import contextlib
import itertools
import os
import queue
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypedDict, Unpack

import alibabacloud_oss_v2 as oss
import alibabacloud_oss_v2.vectors as oss_vectors
import numpy as np
import pytest
import requests
import requests.adapters
from alibabacloud_oss_v2.transport import RequestsHttpClient
from numpy.typing import NDArray

from tests.support.bounded import thread
from tests.support.loopback import LoopbackAdapter, session_by
from worker.local.process import spawn

ACCOUNT = "1234567890"
REGION = "cn-hangzhou"
START_SECONDS = 60

_names = itertools.count(1)


def new_session() -> requests.Session:
    """A session whose requests reach the emulator under any host name; the caller closes it."""
    return session_by(LoopbackAdapter(pool_maxsize=64))


class Fault(TypedDict, total=False):
    """The fields of a fault rule; see `worker.local.emulator.faults.Rule`."""

    operation: str
    bucket: str
    index: str
    keys: list[str]
    key_contains: str
    body_contains: str
    skip: int
    count: int
    probability: float
    seed: int
    latency_seconds: float
    hang: bool
    reset: str
    status: int
    code: str
    message: str
    ec: str
    retry_after: int | str
    body: str
    headers: dict[str, str]
    content: str
    content_base64: str
    content_repeat: int
    drip: str
    drip_seconds: float
    applies: str
    refuse_keys: list[str]


@dataclass(frozen=True)
class Stored:
    """A vector as the emulator keeps it: shape (dimension,)."""

    data: NDArray[np.float32]
    metadata: dict[str, str | list[str]] | None


@dataclass(frozen=True)
class JournalEntry:
    """One request as the emulator saw it; the fields are those of `worker.local.emulator.control.Entry`."""

    sequence: int
    started: float
    at: float
    operation: str | None
    account: str | None
    bucket: str | None
    index: str | None
    keys: list[str]
    body_bytes: int
    status: int | None
    code: str | None
    request_id: str
    applied: bool
    change: int | None
    changed_keys: int
    firsts: list[float]
    ended: float | None

    @property
    def changes(self) -> list[tuple[str, float | None]]:
        """(key, the first number of its vector, or None where it was deleted) of what was applied."""
        keys = self.keys[: self.changed_keys]
        firsts: Sequence[float | None] = self.firsts or [None] * len(keys)
        return list(zip(keys, firsts, strict=True))


@dataclass(frozen=True)
class Emulator:
    """A running emulator, and its control path."""

    port: int
    pid: int
    access_key_id: str = "test"
    access_key_secret: str = "test"
    account: str = ACCOUNT
    region: str = REGION
    session: requests.Session = field(default_factory=new_session, repr=False)

    @property
    def url(self) -> str:
        """The control path's base."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> str:
        """The endpoint for the SDK, which puts the bucket and account in front of its name."""
        return f"http://localhost:{self.port}"

    def client(self, *, timeout: float = 30, **settings: Any) -> Any:
        """The official SDK's vectors client, without its retries; `settings` replace those of its configuration."""
        config = oss.config.load_default()
        config.region, config.account_id, config.endpoint = self.region, self.account, self.endpoint
        config.retry_max_attempts = 1
        config.credentials_provider = oss.credentials.StaticCredentialsProvider(
            self.access_key_id, self.access_key_secret
        )
        config.http_client = RequestsHttpClient(
            session=self.session, connect_timeout=timeout, readwrite_timeout=timeout
        )
        for name, value in settings.items():
            setattr(config, name, value)
        return oss_vectors.Client(config)

    def new_bucket(self) -> str:
        """Make a bucket of a name that no other test has."""
        bucket = f"t{next(_names)}-{uuid.uuid4().hex[:12]}"
        self.client().put_vector_bucket(oss_vectors.models.PutVectorBucketRequest(bucket=bucket))
        return bucket

    def new_index(
        self,
        dimension: int = 4,
        distance_metric: str = "euclidean",
        *,
        non_filterable: Sequence[str] = (),
        bucket: str | None = None,
        index: str = "vectors",
    ) -> tuple[str, str]:
        """Make an index, in a new bucket unless one is given, and return (bucket, index)."""
        bucket = self.new_bucket() if bucket is None else bucket
        request = oss_vectors.models.PutVectorIndexRequest(
            bucket=bucket, index_name=index, dimension=dimension, data_type="float32", distance_metric=distance_metric
        )
        if non_filterable:
            request.metadata = {"nonFilterableMetadataKeys": list(non_filterable)}
        self.client().put_vector_index(request)
        return bucket, index

    def fault(self, **rule: Unpack[Fault]) -> int:
        """Put a fault rule in force and return its number."""
        fields: dict[str, object] = dict(rule)
        return int(self._control("POST", "faults", json=fields)["id"])

    def faults(self) -> list[dict[str, Any]]:
        """`{"id", "hits", "rule"}` of each rule in force."""
        return list(self._control("GET", "faults")["faults"])

    def clear_faults(self, bucket: str | None = None) -> None:
        """Remove all rules, or those of a bucket."""
        self._control("DELETE", "faults", params={} if bucket is None else {"bucket": bucket})

    def clear_fault(self, number: int) -> None:
        """Remove the one rule of that number."""
        self._control("DELETE", "faults", params={"id": str(number)})

    def limits(self, **limits: str | float) -> None:
        """Adjust limits, of one `bucket` or `index` if given; see `worker.local.emulator.faults.Limits`."""
        self._control("POST", "limits", json=limits)

    def accept_keys(self, keys: Mapping[str, str]) -> None:
        """Accept these access keys, secrets by their ids, and no others; its own client continues with the first."""
        pairs = [{"access_key_id": key_id, "secret": secret} for key_id, secret in keys.items()]
        self._control("PUT", "keys", json={"keys": pairs})

    def requests(self, since: int = 0, bucket: str | None = None) -> list[JournalEntry]:
        """The journal above the number `since`, of one bucket if given."""
        parameters = {"since": str(since)} | ({} if bucket is None else {"bucket": bucket})
        return [JournalEntry(**entry) for entry in self._control("GET", "requests", params=parameters)["requests"]]

    def dump(self, bucket: str, index: str, account: str = ACCOUNT) -> dict[str, Stored]:
        """All vectors of an index by key, readable yet or not."""
        parameters = {"account": account, "bucket": bucket, "index": index}
        found = self._control("GET", "dump", params=parameters)["vectors"]
        return {one["key"]: Stored(np.array(one["data"], dtype=np.float32), one["metadata"]) for one in found}

    def _control(
        self, method: str, path: str, *, json: object = None, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        response = self.session.request(method, f"{self.url}/_emulator/{path}", json=json, params=params, timeout=30)
        answer: dict[str, Any] = response.json()
        if response.status_code != 200:
            message = f"{method} {path}: {response.status_code} {answer}"
            raise AssertionError(message)
        return answer


@contextlib.contextmanager
def running_emulator(data: Path | None = None, port: int = 0) -> Iterator[Emulator]:
    """An emulator of its own, stopped at the end by SIGTERM to its own pid, or killed when that does not do.

    It ends with the process that runs the tests, also where that is killed.
    """
    command = [sys.executable, "-m", "worker", "local", "emulator", "--port", str(port)]
    command += [] if data is None else ["--data", str(data)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OSS_EMULATOR_")}
    process = spawn(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    with process.stdout as output, process, new_session() as session:
        yield Emulator(port=_announced_port(output), pid=process.pid, session=session)


def _announced_port(output: IO[str]) -> int:
    lines: queue.Queue[str] = queue.Queue()
    # Reading a pipe has no timeout of its own.
    thread(lambda out: lines.put(out.readline()), output)
    line = lines.get(timeout=START_SECONDS)
    prefix = "OSS vector emulator on http://127.0.0.1:"
    if not line.startswith(prefix):
        message = f"the emulator did not start: it wrote {line!r}"
        raise AssertionError(message)
    return int(line.removeprefix(prefix))


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """The emulator that the whole run shares."""
    with running_emulator() as running:
        yield running
