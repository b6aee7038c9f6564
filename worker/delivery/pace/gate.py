"""The gate that an index closes when it asks for a pause."""

from typing import Final


class Gate:
    """Closed while an index asks for a pause or refuses everything; afterwards one probe goes first.

    CLOSED until a time, then HALF-OPEN: one request passes as the probe and the others wait for its answer, which opens
    the gate or closes it again. Answers to requests that left before it closed say nothing about it.
    """

    _LOOK_AGAIN: Final = 0.05  # seconds until those who wait for the probe's answer ask again

    def __init__(self) -> None:
        self._closed_until: float | None = None
        self._probed: float | None = None  # until when it was closed as the probe left
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether requests pass freely."""
        return self._closed_until is None

    @property
    def closed_until(self) -> float | None:
        """When the probe may go, in the clock's seconds; None while the gate is open."""
        return self._closed_until

    def close(self, until: float) -> None:
        """Let nothing pass before `until`; of several, the latest counts."""
        self._closed_until = until if self._closed_until is None else max(self._closed_until, until)

    def wait(self, now: float) -> float:
        """Return the seconds to wait; 0 if the caller may send."""
        if self._closed_until is None:
            return 0.0
        if now < self._closed_until:
            return self._closed_until - now
        return self._LOOK_AGAIN if self._probing else 0.0

    def enter(self) -> bool:
        """Note that the caller sends; returns whether its request is the probe."""
        self._probing = not self.is_open
        self._probed = self._closed_until
        return self._probing

    def answered(self, *, well: bool) -> None:
        """Note the probe's answer: a good one opens the gate; after any other, the next request may be the probe.

        A good one does not open it if the gate was closed again meanwhile:

        1. The probe leaves.
        2. The answer to an older request closes the gate for a new time.
        3. The probe's good answer comes. It says nothing of the new time.
        """
        self._probing = False
        if well and self._closed_until == self._probed:
            self._closed_until = None
