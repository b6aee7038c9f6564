"""Whether dead letters may be written: only while the group counts on this process."""

from worker.ledger import Ledger
from worker.telemetry.metrics import Metrics


class LeaseCheck:
    """Asks for the lease before a write, and remembers that dead letters wait for it."""

    def __init__(self, ledger: Ledger, metrics: Metrics) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._is_waiting = False

    @property
    def is_waiting(self) -> bool:
        """Return whether dead letters wait because the lease had run out."""
        return self._is_waiting

    def may_write(self) -> bool:
        """Return whether the lease holds. Where it does not, another process may own the partitions, and dead letters wait.

        Some are written twice where the process freezes:

        1. The producer has queued the dead letters of one round (100 at most).
        2. The process freezes until its lease has run out, and another process reads the records again.
        3. This process wakes up, and the producer sends what it had queued.

        A dead letter may be in the topic twice, and no vector is older for it.
        """
        may_write = self._ledger.may_write
        if not may_write and not self._is_waiting:
            self._metrics.lease_waits.inc()
        self._is_waiting = not may_write
        return may_write

    def nothing_waits(self) -> None:
        """Note that no dead letter waits to be written: their partitions were given back."""
        self._is_waiting = False
