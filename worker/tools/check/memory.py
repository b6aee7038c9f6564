"""Whether the container's memory holds what the settings allow."""

from collections.abc import Callable, Iterator
from typing import Final

from worker.consumer.client_config import FETCH_MAX_BYTES, PARTITION_FETCH_MAX_BYTES
from worker.consumer.unpack import MAX_BYTES
from worker.settings.tables import Settings
from worker.telemetry.container import Memory, read_memory
from worker.tools.check.report import Finding, fault, ok, warning

_MIB: Final = 1024**2
_PROCESS_BYTES: Final = 150 * _MIB
"""Of the process itself, with its libraries loaded."""
_UNPACKED_BYTES: Final = 2 * MAX_BYTES
"""Of the largest compressed batch that is read, unpacked."""


def memory(settings: Settings, read: Callable[[], Memory | None] = read_memory) -> Iterator[Finding]:
    """Compare the memory that the settings allow with the limit of the control group."""
    needed = needed_bytes(settings)
    found = read()
    limit = found and found.limit
    told = (
        f"the settings allow about {needed // _MIB} MiB (process, buffer, fetches, requests in flight), and up to "
        f"{_UNPACKED_BYTES // _MIB} MiB more while a compressed batch is unpacked"
    )
    if limit is None:
        yield ok("memory", "container", f"{told}; no limit is set")
    elif needed > limit:
        advice = "raise the limit, or lower buffer.max_bytes, batch.max_bytes or delivery.max_in_flight"
        yield fault("memory", "container", f"{told}; the limit is {limit // _MIB} MiB", advice)
    elif needed > 0.9 * limit or needed + _UNPACKED_BYTES > limit:
        advice = "raise the limit: leave a tenth of it free, and room for a batch that is unpacked"
        yield warning("memory", "container", f"{told}; the limit is {limit // _MIB} MiB", advice)
    else:
        yield ok("memory", "container", f"{told}; the limit is {limit // _MIB} MiB")


def needed_bytes(settings: Settings) -> int:
    """Return the most that the settings allow: the parts of the table "Memory" of the runbook, without an unpacked batch.

    How many brokers and partitions there are is not in the settings. Each bootstrap server counts as a broker, and each
    topic as a partition that waits to be read.
    """
    bodies = settings.delivery.max_in_flight * len(settings.indexes) * settings.batch.max_bytes
    fetches = 2 * len(settings.kafka.bootstrap_servers) * _client_bytes(settings, "fetch_max_bytes", FETCH_MAX_BYTES)
    waiting = len(settings.topics) * _client_bytes(settings, "max_partition_fetch_bytes", PARTITION_FETCH_MAX_BYTES)
    return _PROCESS_BYTES + settings.buffer.max_bytes + fetches + waiting + min(bodies, 2 * settings.buffer.max_bytes)


def _client_bytes(settings: Settings, name: str, default: int) -> int:
    given = settings.kafka.client.get(name, default)
    return given if isinstance(given, int) else default
