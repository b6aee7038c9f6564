"""The official SDK's client of the service or its emulator, for what the local stack makes, lists and queries."""

from collections.abc import Mapping

import alibabacloud_oss_v2 as sdk
import alibabacloud_oss_v2.vectors as sdk_vectors
import requests
from alibabacloud_oss_v2.transport import RequestsHttpClient

from worker.oss.credentials.providers import credentials_provider
from worker.oss.http import LiteralHosts, literal_host
from worker.settings.tables import Oss


class Client:
    """Holds `sdk`, the SDK's client, until it is closed. Raises `SettingsError` where there are no credentials."""

    def __init__(self, settings: Oss, environ: Mapping[str, str]) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        adapter = LiteralHosts(literal_host(settings.endpoint))
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
