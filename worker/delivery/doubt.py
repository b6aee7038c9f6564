"""Whether the records are at fault for the failures of a chunk, or the service is: what is accepted meanwhile shows it."""

from collections import deque
from typing import Final

SPLIT_AFTER: Final = 3  # failures for which a chunk may be the cause

# Failures of one version while others are accepted. All before may be those of an outage, and the first one after it also.
_LEAST_WHILE_OTHERS_PASS: Final = 2
# The same after what may be an outage, each after another acceptance: it may have ended for a moment only.
_LEAST_APART: Final = 3


class Doubt:
    """Counts failures for which a chunk may be the cause, and knows whether others are accepted while it fails.

    Only its last failures count: in an outage nothing is accepted between them, whatever was accepted before.
    """

    def __init__(self, accepted: int | None = None) -> None:
        """`accepted` is how many of the others have been accepted until now, where that counts as a failure before."""
        self.count = 0
        # At each of the last failures, and of the one before them.
        self._accepted = deque(() if accepted is None else (accepted,), maxlen=SPLIT_AFTER + 1)

    def note(self, accepted_when_sent: int, accepted: int) -> bool:
        """Note a failure; so many of the others had been accepted when the request left, and have been until now.

        Returns whether any were accepted since the last failures. One failure more is looked back at than `others_pass` does: so a
        single acceptance counts for two failures if it comes while one is under way, else for three.
        """
        self._accepted.append(accepted)
        self.count += 1
        return accepted_when_sent > self._accepted[0]

    def others_pass(self, accepted_when_sent: int) -> bool:
        """Return whether others were accepted between the first of the last failures and the chunk's last attempt.

        What is accepted after that attempt left does not count:

        1. The chunk is sent during an outage.
        2. The outage ends, and another request is accepted.
        3. The answer to the chunk comes. It is still the outage's.
        """
        return bool(self.count) and accepted_when_sent > self._accepted[-min(SPLIT_AFTER, len(self._accepted))]


class ServiceDoubt:
    """Counts the answers of the service that may blame a record (500), and knows when the record must be their cause.

    The key may get newer versions between its failures. They all count; but no version is blamed without a failure of its own.
    """

    def __init__(self) -> None:
        self._passing = 0  # how many of the last failures, in a row, came while others were accepted
        self._passing_since = 0.0  # when the first of these came, in the clock's seconds
        # Of the version that is sent now: how many of these, and how many failures between whose departure and the one before others
        # were accepted.
        self._of_version = 0
        self._apart = 0
        self._doubt = Doubt()
        self._silent = 0  # how many of the last failures, in a row, came while no others were accepted
        self._was_silent = False  # whether so many came, at any time, that they may be those of an outage
        self._sent: int | None = None  # how many of the others had been accepted when the last request left

    @property
    def count(self) -> int:
        """How many failures there were."""
        return self._doubt.count

    def note(self, accepted_when_sent: int, accepted: int, now: float) -> None:
        """Note a failure, as `Doubt.note` does; `now` is in the clock's seconds."""
        if self._doubt.note(accepted_when_sent, accepted):
            if self._passing == 0:
                self._passing_since = now
            self._passing += 1
            self._of_version += 1
            self._silent = 0
        else:
            self._passing = self._of_version = 0
            self._silent += 1
            self._was_silent |= self._silent >= SPLIT_AFTER
        self._apart += self._sent is not None and accepted_when_sent > self._sent
        self._sent = accepted_when_sent

    def begin_version(self) -> None:
        """Note that another version of the record is sent from now on."""
        self._of_version = self._apart = 0

    def blames_version(self, needed: int, *, lasting: float, now: float, others_fail: bool) -> bool:
        """Return whether the version that is sent must be the cause: others were accepted during the last failures of its key.

        That takes `needed` failures of the key, and of these:

        - The last two, both of this version.
        - If before that none were accepted for a while, and `others_fail` too, it may be an outage that has ended for a moment.
          Then there must be three failures of this version, and an acceptance between each of them and the failure before it.
        - If others were accepted during all of these failures, for `lasting` seconds: one of this version. Of a key that gets newer
          versions all the time, no version is sent twice.
        """
        if self.count < needed:
            return False
        # A single acceptance counts for `SPLIT_AFTER` failures at most.
        if self._passing >= max(needed, SPLIT_AFTER + 1) and now - self._passing_since >= lasting:
            return self._of_version >= 1
        if self._was_silent and others_fail:
            return self._apart >= max(1, min(_LEAST_APART, needed - 1))
        return self._of_version >= max(1, min(_LEAST_WHILE_OTHERS_PASS, needed - 1))
