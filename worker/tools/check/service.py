"""The service: the way to it, its clock, and each index. `credentials.py` looks at the credentials first."""

import contextlib
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
from urllib3.util.ssl_ import create_urllib3_context

from worker.app.routers import agreement, shard_siblings
from worker.app.targets import given_target, may_not_ask
from worker.errors import BlockReason, Refused, SettingsError, SinkError, TargetError
from worker.oss.answers import CREDENTIAL_STATUSES
from worker.oss.http import literal_host
from worker.oss.sink import OssSink
from worker.ports import Operation
from worker.records.target import Target
from worker.settings.tables import Oss, Route, Settings
from worker.tools.check import network
from worker.tools.check.clock import clock
from worker.tools.check.credentials import credentials
from worker.tools.check.proxy import connect_request
from worker.tools.check.report import Finding, fault, ok, skipped, warning

_NOT_ENABLED: Final = "not yet"  # of the error of an index that is being made
_RIGHT: Final = "index.right"
_TIMEOUT_SECONDS: Final = 5.0  # for one answer; a check has 22 s in all


def service(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the service in the order in which one thing needs the other."""
    oss = impatient(settings.oss)
    yield from credentials(oss, environ)
    try:
        sink = OssSink(oss, environ, max_connections=1)
    except SettingsError:
        yield skipped("index", ", ".join(settings.indexes), "the service is not asked without credentials")
        return
    with contextlib.closing(sink):
        yield from _way(oss, sink.url)
        yield clock(oss, sink.url, _TIMEOUT_SECONDS)
        yield from indexes(settings, sink)


def impatient(oss: Oss) -> Oss:
    """Return the settings with time-outs of some seconds: a check waits less than a worker."""
    limits = {
        name: min(_TIMEOUT_SECONDS, getattr(oss, name))
        for name in ("connect_timeout_seconds", "write_timeout_seconds", "read_timeout_seconds")
    }
    return msgspec.structs.replace(oss, **limits)


def _way(oss: Oss, url: str) -> Iterator[Finding]:
    host, port = network.host_and_port(url)
    # The SDK's host name of an endpoint without subdomains does not resolve; the sink connects to the endpoint itself.
    host = literal_host(oss.endpoint) or host
    context = _tls(oss) if url.startswith("https:") else None
    if not oss.proxy_url:
        yield from network.server("service", host, port, context)
        return
    if oss.proxy_url.startswith("https:"):
        # A tunnel in a TLS connection: the requests below show whether the proxy serves it.
        yield from network.server("service.proxy", *network.host_and_port(oss.proxy_url), _tls(oss))
        return
    # Plain HTTP goes to a proxy without a tunnel.
    tunnel = connect_request(oss.proxy_url, host, port) if context is not None else b""
    proxy_host, proxy_port = network.host_and_port(oss.proxy_url)
    yield from network.server("service.proxy", proxy_host, proxy_port, context, tunnel=tunnel, tunnel_host=host)


def _tls(oss: Oss) -> ssl.SSLContext:
    from requests.utils import DEFAULT_CA_BUNDLE_PATH  # noqa: PLC0415 - what the sink trusts too

    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context.check_hostname = True
    context.load_verify_locations(cafile=oss.ca_file or DEFAULT_CA_BUNDLE_PATH)
    return context


def indexes(settings: Settings, sink: OssSink) -> Iterator[Finding]:
    """Ask for each index, compare it with its routes, and try the rights to write."""
    is_away = is_bucket_shown = False
    described: dict[str, Target] = {}
    for index in settings.indexes:
        if is_away:
            yield skipped("index", index, "not asked: the service does not answer")
            continue
        try:
            found = sink.describe(index)
        except SinkError as error:
            if (finding := _as_given(settings, index, error)) is not None:
                yield finding
                yield from _rights(settings, sink, index)
                continue
            yield _failed(settings.oss, index, error)
            is_away = not isinstance(error, TargetError) and not error.status and _NOT_ENABLED not in error.message
            continue
        if not is_bucket_shown:
            yield ok("bucket", settings.oss.bucket, "it is there, and these credentials may read in it")
            is_bucket_shown = True
        yield from _index(found, _routes_to(index, settings))
        siblings = shard_siblings(index, settings.routes)
        if problem := agreement(found, {name: described[name] for name in siblings if name in described}):
            yield fault("index.shards", index, problem, "make the shards alike, or take one out of the route's index")
        described[index] = found
        yield from _rights(settings, sink, index)


def _routes_to(index: str, settings: Settings) -> list[Route]:
    return [route for route in settings.routes if index in route.index_names]


def _as_given(settings: Settings, index: str, error: SinkError) -> Finding | None:
    """Return what is said of an index that may not be asked for, and that the worker takes as its route says; else None."""
    given = given_target(index, _routes_to(index, settings))
    refused = _failed(settings.oss, index, error)
    if given is None or refused.check != _RIGHT or not may_not_ask(error):
        return None
    told = (
        f"{refused.result}; the worker takes dimension {given.dimension} and {given.distance_metric} as the route says"
    )
    return warning(_RIGHT, index, told, f"{refused.advice}, so that they are compared with the index")


def _failed(oss: Oss, index: str, error: SinkError) -> Finding:
    check, subject, advice = _concerned(oss, index, error)
    return fault(check, subject, str(error), advice)


def _concerned(oss: Oss, index: str, error: SinkError) -> tuple[str, str, str]:
    """Return check, subject and advice for what the service, or something on the way to it, refuses."""
    bucket = ("bucket", oss.bucket, "create it, or correct oss.bucket, oss.region or oss.account_id")
    by_code = {
        "NoSuchVectorBucket": bucket,
        "NoSuchBucket": bucket,
        "NoSuchVectorIndex": ("index", index, "create it, or correct the route's index"),
        "RequestTimeTooSkewed": ("index", index, "correct this machine's clock (NTP)"),
        "AccessDenied": (_RIGHT, index, f"grant oss:GetVectorIndex on index {index} to these credentials"),
    }
    by_words = {
        "oss.proxy_url": ("index", index, "correct oss.proxy_url, or what the proxy allows"),
        "not the service's answer": (
            "index",
            index,
            "correct oss.endpoint: something else than the service answers there",
        ),
        _NOT_ENABLED: ("index.status", index, "wait until it is enabled, then check again"),
    }
    if error.code in by_code:
        return by_code[error.code]
    if known := next((found for words, found in by_words.items() if words in error.message), None):
        return known
    if not isinstance(error, TargetError):
        return "index", index, "see the lines on the way to the service, then check again"
    if error.block is BlockReason.CREDENTIALS:
        return "credentials.accepted", index, "correct the credentials: access key id, secret and session token"
    return "index", index, "correct oss.bucket, oss.region, oss.account_id or oss.endpoint"


def _index(found: Target, routes: list[Route]) -> Iterator[Finding]:
    index = found.index
    hidden = ", ".join(sorted(found.non_filterable_metadata_keys)) or "none"
    told = f"enabled; dimension {found.dimension}, {found.distance_metric}, metadata that is not filterable: {hidden}"
    yield ok("index", index, told)
    for route in routes:
        if route.dimension not in (0, found.dimension):
            told = f"the route of {route.topic} has dimension {route.dimension}, the index has {found.dimension}"
            yield fault("index.dimension", index, told, "correct routes.dimension, or leave it at 0 to ask the service")
        if route.distance_metric not in ("", found.distance_metric):
            told = f"the route of {route.topic} has {route.distance_metric}, the index has {found.distance_metric}"
            yield fault(
                "index.metric", index, told, 'correct routes.distance_metric, or leave it "" to ask the service'
            )
        wanted = frozenset(route.non_filterable_metadata_keys)
        if wanted and wanted != found.non_filterable_metadata_keys:
            told = f"the route of {route.topic} has the keys {', '.join(sorted(wanted))}, the index has {hidden}"
            yield fault("index.metadata", index, told, "correct routes.non_filterable_metadata_keys, or leave it empty")


def _rights(settings: Settings, sink: OssSink, index: str) -> Iterator[Finding]:
    """Send requests without a vector, which write nothing: how the service refuses them shows whether the caller may write."""
    yield right(settings.oss, Operation.PUT, sink.put, index)
    if any(deletes(settings, route) for route in _routes_to(index, settings)):
        yield right(settings.oss, Operation.DELETE, sink.delete, index)


def deletes(settings: Settings, route: Route) -> bool:
    """Return whether records of a route can delete vectors."""
    records = settings.records_of(route.topic)
    return records.tombstones == "delete" or records.envelope == "debezium" or bool(records.fields.delete)


# Codes with which a service may refuse a list for being empty, and nothing else that such a request has.
_OF_AN_EMPTY_REQUEST: Final = frozenset(
    (
        "InvalidArgument",
        "InvalidParameter",
        "MalformedJSON",
        "MalformedJson",
        "MissingArgument",
        "MissingParameter",
        "VectorIndexParameterInvalid",
    )
)


def right(oss: Oss, operation: Operation, send: Callable[[bytes], int], index: str) -> Finding:
    """Return whether the caller has the right to the operation, PutVectors or DeleteVectors, by how `send` fails."""
    check, name = _RIGHT, f"{index} {operation.value}"
    elements = "vectors" if operation is Operation.PUT else "keys"
    try:
        send(msgspec.json.encode({"indexName": index, elements: []}))
    except Refused as error:
        if error.code not in _OF_AN_EMPTY_REQUEST:
            return skipped(check, name, f"not known: the service refused a request without a vector: {error}")
        told = f"the service refused the content of a request without a vector, not the right: {error}"
        return ok(check, name, f"{told}; more is not known without writing")
    except TargetError as error:
        grant = f"grant oss:{operation.value} on index {index} to these credentials"
        is_right = error.code == "AccessDenied" or error.status in CREDENTIAL_STATUSES
        return fault(check, name, str(error), grant if is_right else _concerned(oss, index, error)[2])
    except SinkError as error:
        return skipped(check, name, f"not known: {error}")
    return skipped(check, name, "not known: the service accepted a request without a vector, which changed nothing")
