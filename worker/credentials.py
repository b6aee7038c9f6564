"""Where the service's credentials come from, as `oss.credentials` says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from alibabacloud_oss_v2.credentials import (
    AnonymousCredentialsProvider,
    Credentials,
    CredentialsProviderFunc,
    StaticCredentialsProvider,
)

from worker.config import Oss, missing_credentials
from worker.errors import SettingsError


def credentials_provider(settings: Oss, environ: Mapping[str, str]) -> Any:
    """Return the SDK's provider for `oss.credentials`. Raises `SettingsError` where there are none to begin with."""
    mode = settings.credentials
    if mode == "anonymous":
        return AnonymousCredentialsProvider()
    if mode == "environment":
        return _from_environment(environ)
    if mode == "file":
        return CredentialsProviderFunc(_CredentialsFile(Path(settings.credentials_file)).read)
    return CredentialsProviderFunc(_from_credentials_package(mode, settings.credentials_process))


def _from_environment(environ: Mapping[str, str]) -> Any:
    if mistakes := missing_credentials(environ):
        raise SettingsError(mistakes)
    return StaticCredentialsProvider(
        environ["OSS_ACCESS_KEY_ID"], environ["OSS_ACCESS_KEY_SECRET"], environ.get("OSS_SESSION_TOKEN") or None
    )


class _CredentialsFile:
    """JSON with `access_key_id`, `access_key_secret` and, if any, `session_token`; read again when it changes."""

    class Content(msgspec.Struct):
        access_key_id: str
        access_key_secret: str
        session_token: str | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._credentials: Credentials = None
        try:
            self.read()
        except (OSError, ValueError) as error:
            expected = "expected JSON with access_key_id, access_key_secret and, if any, session_token"
            raise SettingsError([f"oss.credentials_file = {str(path)!r}: {_what_failed(error)}; {expected}"]) from None

    def read(self) -> Credentials:
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            content = msgspec.json.decode(self._path.read_bytes(), type=self.Content)
            self._credentials = Credentials(content.access_key_id, content.access_key_secret, content.session_token)
            self._stamp = stamp
        return self._credentials


def _what_failed(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _from_credentials_package(mode: str, command: str) -> Any:
    try:
        from alibabacloud_credentials import provider as providers  # noqa: PLC0415 - an extra, needed by these modes alone
    except ImportError:
        raise SettingsError(
            [f"oss.credentials = {json.dumps(mode)} needs the extra: pip install 'oss-vectors-worker[credentials]'"]
        ) from None
    try:
        provider = {
            "default-chain": providers.DefaultCredentialsProvider,
            "ecs-ram-role": providers.EcsRamRoleCredentialsProvider,
            "oidc": providers.OIDCRoleArnCredentialsProvider,
            "process": lambda: providers.ExternalCredentialsProvider(process_command=command),
        }[mode]()
    except Exception as error:  # whatever it misses, it says so
        raise SettingsError([f"oss.credentials = {json.dumps(mode)}: {error}"]) from None

    def fetch() -> Credentials:
        found = provider.get_credentials()
        return Credentials(found.get_access_key_id(), found.get_access_key_secret(), found.get_security_token() or None)

    return fetch
