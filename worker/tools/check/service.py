"""The service: credentials, the way to it, its clock, and each index."""

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec
import requests

from worker.errors import Refused, SettingsError, SinkError, TargetError
from worker.oss.credentials.providers import credentials_provider
from worker.oss.sink import OssSink
from worker.settings.tables import Oss, Route, Settings
from worker.tools.check import network
from worker.tools.check.report import Finding, fault, ok, skipped, warning

_SKEW_REFUSED_SECONDS: Final = 900.0
"""The service refuses requests whose time differs by more (RequestTimeTooSkewed)."""
_SKEW_TOLD_SECONDS: Final = 60.0
_TIMEOUT_SECONDS: Final = 5.0
_EXPIRES_SOON_SECONDS: Final = 3600.0


def service(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the service in the order in which one thing needs the other."""
    yield from _credentials(settings.oss, environ)
    try:
        sink = OssSink(settings.oss, environ, max_connections=1)
    except SettingsError:
        yield skipped("service", settings.oss.bucket, "without credentials it is not asked")
        return
    with contextlib.closing(sink):
        yield from _way(settings.oss, sink.url)
        for index in settings.indexes:
            routes = [route for route in settings.routes if route.index == index]
            yield from _index(sink, index, routes)


def _credentials(oss: Oss, environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        provider = credentials_provider(oss, environ)
    except SettingsError as error:
        for mistake in error.mistakes:
            yield fault("credentials", oss.credentials, mistake, "correct the setting, or give what is missing")
        return
    try:
        found = provider.get_credentials()
    except Exception as error:  # any provider's own; its words may hold a secret only after redaction
        yield fault("credentials", oss.credentials, f"there are none: {error}", "see oss.credentials")
        return
    finally:
        provider.close()
    expiration = getattr(found, "expiration", None)
    if expiration is None:
        kind = "temporary, their end is not known" if found.security_token else "they name no end"
        yield ok("credentials", oss.credentials, f"there are some; {kind}")
        return
    left = expiration.timestamp() - time.time()
    if left < _EXPIRES_SOON_SECONDS:
        yield warning("credentials", oss.credentials, f"they end in {left / 60:.0f} min", "are they renewed in time?")
    else:
        yield ok("credentials", oss.credentials, f"they end in {left / 3600:.1f} h")


def _way(oss: Oss, url: str, wall: Callable[[], float] = time.time) -> Iterator[Finding]:
    if oss.proxy_url:
        yield from network.server("service.proxy", *network.host_and_port(oss.proxy_url), None)
    else:
        host, port = network.host_and_port(url)
        context = ssl.create_default_context(cafile=oss.ca_file or None) if url.startswith("https:") else None
        yield from network.server("service", host, port, context)
    yield from _clock(oss, url, wall)


def _clock(oss: Oss, url: str, wall: Callable[[], float]) -> Iterator[Finding]:
    """Compare the service's `Date` with this machine's clock. An unsigned request is refused, and says the time."""
    proxies = {"http": oss.proxy_url, "https": oss.proxy_url} if oss.proxy_url else {}
    verify: Any = oss.ca_file or True
    with requests.Session() as session:
        session.trust_env = False
        try:
            answer = session.get(
                url, proxies=proxies, verify=verify, timeout=_TIMEOUT_SECONDS, allow_redirects=False, stream=True
            )
            told = answer.headers.get("Date", "")
            answer.close()
        except (requests.RequestException, OSError) as error:
            yield skipped("service.clock", "Date", f"the service does not say its time: {type(error).__name__}")
            return
    try:
        skew = parsedate_to_datetime(told).timestamp() - wall()
    except (ValueError, TypeError):
        yield skipped("service.clock", "Date", "the service does not say its time")
        return
    result = f"the service's clock differs by {abs(skew):.0f} s"
    if abs(skew) > _SKEW_REFUSED_SECONDS:
        advice = "correct this machine's clock (NTP): the service refuses more than 15 min"
        yield fault("service.clock", "Date", result, advice)
    elif abs(skew) > _SKEW_TOLD_SECONDS:
        yield warning("service.clock", "Date", result, "correct this machine's clock (NTP)")
    else:
        yield ok("service.clock", "Date", result)


def _index(sink: OssSink, index: str, routes: list[Route]) -> Iterator[Finding]:
    try:
        found = sink.describe(index)
    except TargetError as error:
        advice = (
            "correct the credentials or their permissions"
            if error.status in (401, 403)
            else "make it, or correct the settings"
        )
        yield fault("index", index, str(error), advice)
        return
    except SinkError as error:
        yield fault("index", index, str(error), "try again; if it stays, see the way to the service")
        return
    yield ok("index", index, f"dimension {found.dimension}, {found.distance_metric}")
    for route in routes:
        if route.dimension not in (0, found.dimension):
            told = f"the route of {route.topic} says dimension {route.dimension}, the index has {found.dimension}"
            yield fault("index.dimension", index, told, "correct routes.dimension, or leave it at 0")
        if route.distance_metric not in ("", found.distance_metric):
            told = f"the route of {route.topic} says {route.distance_metric}, the index has {found.distance_metric}"
            yield fault("index.metric", index, told, "correct routes.distance_metric, or leave it empty")
    yield from _right_to_write(sink, index)


def _right_to_write(sink: OssSink, index: str) -> Iterator[Finding]:
    """Send a PutVectors without a vector: the service refuses it, and the refusal shows whether the caller may write."""
    try:
        sink.put(msgspec.json.encode({"indexName": index, "vectors": []}))
    except Refused:
        yield ok(
            "index.right",
            index,
            "an empty PutVectors is refused for being empty: the caller may write, as far as this shows",
        )
    except TargetError as error:
        yield fault("index.right", index, str(error), "grant PutVectors and DeleteVectors on the index")
    except SinkError as error:
        yield skipped("index.right", index, f"not known: {error}")
    else:
        yield skipped("index.right", index, "not known: the service accepts an empty PutVectors")
