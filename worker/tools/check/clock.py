"""This machine's clock beside the service's, which refuses requests whose time is too far from its own."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

import requests

from worker.oss.http import LiteralHosts, literal_host
from worker.settings.tables import Oss
from worker.tools.check.report import Finding, fault, ok, skipped, warning

REFUSED_SECONDS: Final = 900.0
"""The service refuses requests whose time differs by more (RequestTimeTooSkewed)."""
_REPORTED_SECONDS: Final = 60.0
_CHECK: Final = "service.clock"


def clock(oss: Oss, url: str, timeout_seconds: float, wall: Callable[[], float] = time.time) -> Finding:
    """Compare the service's `Date` with this machine's clock. It answers an unsigned request too, with a refusal."""
    adapter = LiteralHosts(literal_host(oss.endpoint), 1)
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        session.verify = oss.ca_file or True
        session.proxies = {"http": oss.proxy_url, "https": oss.proxy_url} if oss.proxy_url else {}
        try:
            answer = session.get(url, timeout=timeout_seconds, allow_redirects=False, stream=True)
            told = answer.headers.get("Date", "")
            answer.close()
        except (requests.RequestException, OSError) as error:
            return skipped(_CHECK, "Date", f"the service does not say its time: {type(error).__name__}")
    try:
        skew = parsedate_to_datetime(told).timestamp() - wall()
    except (ValueError, TypeError):
        return skipped(_CHECK, "Date", "the answer has no date")
    return _judged(skew)


def _judged(skew: float) -> Finding:
    result = f"the service's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) > REFUSED_SECONDS:
        advice = "correct this machine's clock (NTP): the service refuses requests that are more than 15 min off"
        return fault(_CHECK, "Date", result, advice)
    if abs(skew) > _REPORTED_SECONDS:
        return warning(_CHECK, "Date", result, "correct this machine's clock (NTP) before it is 15 min off")
    return ok(_CHECK, "Date", result)
