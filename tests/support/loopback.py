"""Requests to hosts whose names do not resolve everywhere, on this machine. It imports nothing but requests."""

from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters


class LoopbackAdapter(requests.adapters.HTTPAdapter):
    """Connects every request to 127.0.0.1 at the port of its URL; the Host header keeps the URL's name."""

    def add_headers(self, request: requests.PreparedRequest, **_kwargs: Any) -> None:
        """Name the host of the URL."""
        request.headers["Host"] = urlsplit(str(request.url)).netloc

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of connections, by the loopback address."""
        host, pool = super().build_connection_pool_key_attributes(*args, **kwargs)
        return {**host, "host": "127.0.0.1"}, pool


def session_by(adapter: LoopbackAdapter) -> requests.Session:
    """A session of that adapter alone, whatever proxies the environment names; the caller closes it."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", adapter)
    return session
