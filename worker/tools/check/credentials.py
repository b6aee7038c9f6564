"""The service's credentials: where they come from, and how long they are valid."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from worker.errors import SettingsError
from worker.oss.credentials.providers import CredentialsError, credentials_provider
from worker.settings.tables import Oss
from worker.settings.value_text import shown_path
from worker.tools.check.report import Finding, fault, ok, warning

_EXPIRES_SOON_SECONDS: Final = 600.0
_SHOWN: Final = 4  # last characters of the access key id, by which people recognise it
_LONG_ENOUGH: Final = 16

_SOURCES: Final[Mapping[str, str]] = {
    "environment": "OSS_ACCESS_KEY_ID and the variables beside it",
    "process": "the program of oss.credentials_process",
    "default-chain": "the default chain of Alibaba Cloud's credentials package",
    "ecs-ram-role": "the RAM role of this machine",
    "oidc": "the RAM role of this pod (OIDC)",
    "anonymous": "none, requests are not signed",
}


def credentials(oss: Oss, environ: Mapping[str, str], wall: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Fetch them once."""
    source = f"the file {shown_path(oss.credentials_file)}" if oss.credentials == "file" else _SOURCES[oss.credentials]
    try:
        provider = credentials_provider(oss, environ)
    except SettingsError as error:
        for mistake in error.mistakes:
            yield fault("credentials", oss.credentials, mistake, "give what is missing, or correct oss.credentials")
        return
    try:
        found: Any = provider.get_credentials()
    except Exception as error:  # any provider's own; the words of those that are not ours may quote an answer
        told = str(error) if isinstance(error, CredentialsError) else type(error).__name__
        yield fault("credentials", oss.credentials, f"there are none from {source}: {told}", "see oss.credentials")
        return
    finally:
        provider.close()
    if oss.credentials == "anonymous":
        yield ok("credentials", oss.credentials, source)
        return
    yield _lifetime(oss.credentials, f"from {source}{_recognised(found.access_key_id)}", found, wall())


def _recognised(key_id: str) -> str:
    return f", the access key id ends in {key_id[-_SHOWN:]}" if len(key_id) >= _LONG_ENOUGH else ""


def _lifetime(mode: str, told: str, found: Any, now: float) -> Finding:
    if found.expiration is not None:
        left = found.expiration.timestamp() - now
        if left < _EXPIRES_SOON_SECONDS:
            told = f"{told}; they expire in {left / 60:.0f} min"
            return warning("credentials", mode, told, "see that their source gives new ones before these expire")
        return ok("credentials", mode, f"{told}; they expire in {left / 3600:.1f} h, and are renewed before")
    if not found.security_token:
        return ok("credentials", mode, f"{told}; they do not expire")
    if mode == "environment":
        told = f"{told}; they are temporary, and the environment of a process is never renewed"
        return warning("credentials", mode, told, "use a source that is renewed: see oss.credentials")
    return ok("credentials", mode, f"{told}; they are temporary, their end is not known")
