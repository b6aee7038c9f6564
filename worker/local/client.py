"""The official SDK's client of the service or its emulator, for what the local stack makes, lists and queries."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import alibabacloud_oss_v2 as sdk
import alibabacloud_oss_v2.vectors as sdk_vectors
import requests
from alibabacloud_oss_v2.transport import RequestsHttpClient
from requests.adapters import HTTPAdapter

from worker.config import Oss
from worker.connections import literal_host
from worker.credentials import credentials_provider


class Client:
    """Holds `sdk`, the SDK's client, until it is closed. Raises `SettingsError` where there are no credentials."""

    def __init__(self, settings: Oss, environ: Mapping[str, str]) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        adapter = _LiteralHosts(literal_host(settings.endpoint))
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        config = sdk.config.load_default()
        config.region = settings.region
        config.account_id = settings.account_id
        config.endpoint = settings.endpoint or None
        config.credentials_provider = credentials_provider(settings, environ)
        config.retry_max_attempts = 1
        config.http_client = RequestsHttpClient(session=self._session)
        self.sdk = sdk_vectors.Client(config)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


class _LiteralHosts(HTTPAdapter):
    """Reaches endpoints below which no name can be made: an IP address, or localhost.

    The SDK always makes the host `{bucket}-{account}.{endpoint}`, which may not resolve there. The connection goes to the
    endpoint, and the Host header keeps the name.
    """

    def __init__(self, literal_host: str | None) -> None:
        self._literal_host = literal_host
        super().__init__(max_retries=0)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if self._literal_host is not None:
            parts = urlsplit(request.url or "")
            request.headers["Host"] = parts.netloc
            host = self._literal_host
            request.url = parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host).geturl()
        return super().send(request, *args, **kwargs)
