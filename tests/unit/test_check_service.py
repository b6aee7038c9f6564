"""What `check` says of credentials and clocks, on stand-ins for the service."""

import contextlib
import datetime as dt
import http.server
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.app import settings
from tests.unit.samples import NEEDED
from worker.errors import BlockReason, Refused, RetryReason, SinkError, TargetError, Transient
from worker.ports import Operation
from worker.records.target import Target
from worker.settings import tables
from worker.settings.load import load
from worker.settings.tables import Oss
from worker.tools.check.clock import clock
from worker.tools.check.credentials import credentials
from worker.tools.check.report import Finding, Status
from worker.tools.check.service import deletes, impatient, indexes, right

KEY_ID, SECRET, TOKEN = "LTAI5tExampleOfAnId7", "the-secret-of-the-test", "the-token-of-the-test"


def oss(**given: object) -> Oss:
    """Return the settings of the service, with these in place of the defaults."""
    return msgspec.structs.replace(load(None, NEEDED).settings.oss, **given)


def tried(settings: Oss, environ: Mapping[str, str] | None = None, now: float | None = None) -> Finding:
    """Return the one finding on credentials. It must not show any."""
    [found] = credentials(settings, environ or {}, lambda: time.time() if now is None else now)
    assert SECRET not in repr(found)
    assert TOKEN not in repr(found)
    return found


# -- credentials

KEYS = {"OSS_ACCESS_KEY_ID": KEY_ID, "OSS_ACCESS_KEY_SECRET": SECRET}


def test_lasting_credentials_are_recognised_by_the_end_of_their_id() -> None:
    found = tried(oss(), KEYS)
    assert (found.check, found.subject, found.status) == ("credentials", "environment", Status.OK)
    assert found.result.endswith(", the access key id ends in nId7; they do not expire")


def test_missing_credentials_are_a_fault_for_each_variable() -> None:
    found = list(credentials(oss(), {}))
    assert [one.status for one in found] == [Status.FAULT, Status.FAULT]
    assert [name in one.result for one, name in zip(found, KEYS, strict=True)] == [True, True]


def test_temporary_credentials_in_the_environment_are_a_warning() -> None:
    found = tried(oss(), KEYS | {"OSS_SESSION_TOKEN": TOKEN})
    assert found.status is Status.WARNING
    assert "never renewed" in found.result


def test_credentials_of_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(
        json.dumps({"access_key_id": KEY_ID, "access_key_secret": SECRET, "session_token": TOKEN}), encoding="ascii"
    )
    found = tried(oss(credentials="file", credentials_file=str(path)))
    assert (found.subject, found.status) == ("file", Status.OK)
    assert str(path) in found.result
    assert "their end is not known" in found.result


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    found = tried(oss(credentials="file", credentials_file=str(tmp_path / "none")))
    assert (found.check, found.status, bool(found.advice)) == ("credentials", Status.FAULT, True)


def program(folder: Path, minutes: float) -> Oss:
    """Return settings whose program prints credentials that expire in so many minutes."""
    end = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
    path = folder / "keys.json"
    keys = {"mode": "StsToken", "access_key_id": KEY_ID, "access_key_secret": SECRET, "sts_token": TOKEN}
    path.write_text(json.dumps(keys | {"expiration": end}), encoding="ascii")
    code = "import sys; print(open(sys.argv[1]).read())"
    return oss(credentials="process", credentials_process=f'{sys.executable} -c "{code}" {path}')


@pytest.mark.parametrize(
    ("minutes", "status", "told"), [(120.5, Status.OK, "expire in 2.0 h"), (5.5, Status.WARNING, "expire in 5 min")]
)
def test_the_end_of_a_programs_credentials_is_shown(tmp_path: Path, minutes: float, status: Status, told: str) -> None:
    found = tried(program(tmp_path, minutes))
    assert (found.subject, found.status) == ("process", status)
    assert told in found.result


def test_expired_credentials_of_a_program_are_a_fault(tmp_path: Path) -> None:
    found = tried(program(tmp_path, -5))
    assert (found.check, found.status) == ("credentials", Status.FAULT)
    assert "have expired" in found.result


def test_no_credentials_are_needed_where_requests_are_not_signed() -> None:
    assert tried(oss(credentials="anonymous")).status is Status.OK


# -- the clock


@contextlib.contextmanager
def telling(date: str | None) -> Iterator[str]:
    """A service that refuses everything and says this time; yields its endpoint."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(403)
            if date is not None:
                self.send_header("Date", date)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(30)


@pytest.mark.parametrize(
    ("seconds", "status", "told"),
    [
        (0, Status.OK, "0 s behind"),
        (120, Status.WARNING, "120 s ahead of"),
        (-120, Status.WARNING, "120 s behind"),
        (1200, Status.FAULT, "1200 s ahead of"),
        (-1200, Status.FAULT, "1200 s behind"),
    ],
)
def test_a_clock_that_differs_from_the_services(seconds: int, status: Status, told: str) -> None:
    now = 1_800_000_000
    with telling(formatdate(now + seconds, usegmt=True)) as endpoint:
        found = clock(oss(endpoint=endpoint), endpoint, 30, wall=lambda: now)
    assert (found.check, found.status) == ("service.clock", status)
    assert told in found.result
    assert ("NTP" in found.advice) is (status is not Status.OK)


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_a_service_that_says_no_time_is_not_judged(date: str | None) -> None:
    with telling(date) as endpoint:
        assert clock(oss(endpoint=endpoint), endpoint, 30).status is Status.SKIPPED


def test_a_service_that_is_silent_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert clock(oss(endpoint=endpoint), endpoint, 0.1).status is Status.SKIPPED


def test_a_check_waits_some_seconds_and_never_longer_than_the_worker() -> None:
    found = impatient(oss(connect_timeout_seconds=2.0, read_timeout_seconds=300.0, write_timeout_seconds=60.0))
    assert (found.connect_timeout_seconds, found.read_timeout_seconds, found.write_timeout_seconds) == (2.0, 5.0, 5.0)


# -- indexes


class Refusing:
    """A service that lets nobody ask for an index, and refuses to write nothing at all."""

    def __init__(self, code: str) -> None:
        self._code = code
        self.puts = 0

    def describe(self, index: str) -> Target:
        raise TargetError(f"{index} is not shown", block=BlockReason.CREDENTIALS, status=403, code=self._code)

    def put(self, _: bytes) -> int:
        self.puts += 1
        raise Refused("no vectors", status=400, code="InvalidArgument")


GIVEN = tables.Route(topic="vectors", index="docs", dimension=4, distance_metric="cosine")


def test_an_index_that_may_not_be_asked_for_is_judged_by_the_right_to_write_where_its_route_says_the_rest() -> None:
    sink = Refusing("AccessDenied")
    asked, put = indexes(settings(routes=(GIVEN,)), sink)  # type: ignore[arg-type]  # what of a sink is used
    assert (asked.check, asked.subject, asked.status) == ("index.right", "docs", Status.WARNING)
    assert "the worker takes dimension 4 and cosine as the route says" in asked.result
    assert "grant oss:GetVectorIndex" in asked.advice
    assert (put.subject, put.status, sink.puts) == ("docs PutVectors", Status.OK, 1)


@pytest.mark.parametrize(
    ("code", "route"),
    [("AccessDenied", tables.Route(topic="vectors", index="docs", dimension=4)), ("InvalidAccessKeyId", GIVEN)],
    ids=["a route that does not say it", "wrong credentials"],
)
def test_an_index_that_is_not_shown_is_a_fault_otherwise(code: str, route: tables.Route) -> None:
    sink = Refusing(code)
    (asked,) = indexes(settings(routes=(route,)), sink)  # type: ignore[arg-type]  # what of a sink is used
    assert (asked.status, sink.puts) == (Status.FAULT, 0)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ({}, False),
        ({"tombstones": "delete"}, True),
        ({"envelope": "debezium"}, True),
        ({"fields": {"delete": "__deleted"}}, True),
        ({"envelope": "connect"}, False),
    ],
)
def test_a_route_deletes_where_its_records_can(records: dict[str, Any], expected: bool) -> None:
    route = tables.Route(topic="t", index="docs", records=records)
    assert deletes(settings(routes=(route,)), route) is expected


REGION = "Invalid signing region in Authorization header. (EC 0002-00000226)"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            Refused("vectors is empty", status=400, code="InvalidArgument"),
            Status.OK,
            "InvalidArgument: vectors is empty",
        ),
        (Refused("m", status=400, code="MalformedJson"), Status.OK, "not the right"),
        (Refused("m", status=413, code="EntityTooLarge"), Status.SKIPPED, "413 EntityTooLarge: m"),
        (Transient("m", kind=RetryReason.SERVER, status=400, code="InvalidArgument"), Status.SKIPPED, "not known: 400"),
        (TargetError(REGION, block=BlockReason.TARGET, status=400, code="InvalidArgument"), Status.FAULT, "oss.region"),
        (
            TargetError("m", block=BlockReason.CREDENTIALS, status=403),
            Status.FAULT,
            "grant oss:PutVectors on index docs",
        ),
        (
            TargetError("m", block=BlockReason.CREDENTIALS, status=400, code="InvalidArgument"),
            Status.FAULT,
            "correct the credentials",
        ),
    ],
)
def test_a_right_is_believed_of_an_answer_about_an_empty_request_alone(
    error: SinkError, status: Status, words: str
) -> None:
    def send(body: bytes) -> int:
        assert json.loads(body) == {"indexName": "docs", "vectors": []}
        raise error

    found = right(oss(), Operation.PUT, send, "docs")
    assert (found.check, found.subject, found.status) == ("index.right", "docs PutVectors", status)
    assert words in f"{found.result} {found.advice}"
