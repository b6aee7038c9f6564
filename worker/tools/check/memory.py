"""Whether the container's memory holds what the settings allow."""

from collections.abc import Callable, Iterator
from typing import Final

from worker.consumer.client_config import FETCH_MAX_BYTES
from worker.settings.tables import Settings
from worker.telemetry.container import Memory, read_memory
from worker.tools.check.report import Finding, fault, ok, warning

_PROCESS_BYTES: Final = 120 * 1024**2
"""Of the process itself, with its libraries loaded."""
_MB: Final = 1024**2


def memory(settings: Settings, read: Callable[[], Memory | None] = read_memory) -> Iterator[Finding]:
    """Compare the memory that the settings allow with the limit of the control group."""
    needed = needed_bytes(settings)
    found = read()
    limit = found and found.limit
    told = f"the settings allow about {needed // _MB} MB (process, buffer, fetches, requests in flight)"
    if limit is None:
        yield ok("memory", "container", f"{told}; no limit is set")
    elif needed > limit:
        advice = "raise the limit, or lower buffer.max_bytes, batch.max_bytes or delivery.max_in_flight"
        yield fault("memory", "container", f"{told}; the limit is {limit // _MB} MB", advice)
    elif needed > 0.9 * limit:
        advice = "raise the limit: leave a tenth of it free"
        yield warning("memory", "container", f"{told}; the limit is {limit // _MB} MB", advice)
    else:
        yield ok("memory", "container", f"{told}; the limit is {limit // _MB} MB")


def needed_bytes(settings: Settings) -> int:
    """Return the most that the settings allow: the buffer, a fetch twice, and the bodies of all requests in flight."""
    bodies = settings.delivery.max_in_flight * len(settings.indexes) * settings.batch.max_bytes
    fetch = settings.kafka.client.get("fetch_max_bytes", FETCH_MAX_BYTES)
    fetch_bytes = fetch if isinstance(fetch, int) else FETCH_MAX_BYTES
    return _PROCESS_BYTES + settings.buffer.max_bytes + 2 * fetch_bytes + min(bodies, 2 * settings.buffer.max_bytes)
