"""The schema registry: is it reached, does it accept the login, does it speak the API? One request, as the worker makes it."""

from collections.abc import Iterator
from typing import Final

import msgspec

from worker.errors import RegistryUnavailable
from worker.extras import import_with_extra
from worker.settings.tables import Registry
from worker.tools.check.report import Finding, fault, ok

_LONGEST_SECONDS: Final = 5.0  # to connect, and to wait: the whole check ends in 22 s


def registry(settings: Registry) -> Iterator[Finding]:
    """Ask for a schema that is not there. Raises `FatalError` where the extra is not installed."""
    import_with_extra("worker.registry.book", "registry", "registry.url needs")  # what reads schemas
    module = import_with_extra("worker.registry.client", "registry", "registry.url needs")
    seconds = min(settings.timeout_seconds, _LONGEST_SECONDS)
    client = module.RegistryClient(msgspec.structs.replace(settings, timeout_seconds=seconds))
    try:
        client.probe()
    except RegistryUnavailable as error:
        yield fault("registry", settings.url, str(error), "see `blocked: registry` in ops/runbook.md")
    else:
        login = "accepts the login" if settings.username or settings.token else "wants no login"
        yield ok("registry", settings.url, f"answers as a schema registry does, and {login}")
    finally:
        client.close()
