"""Partitions that cannot be fetched, since their leader is gone, cannot be reached, or does not confirm the position.

While a partition that is to be fetched has no leader, the client asks for metadata with every poll, some ten times a
second. So such a partition is not fetched until the metadata, which is asked for once a second, names a leader. The same
holds for a partition that the metadata does not name any more, as of a topic that this user may not see: `Topics` says why.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from kafka import TopicPartition

from worker.consumer import client_config, client_internals
from worker.errors import BlockReason
from worker.ledger import Assignment, Partition
from worker.telemetry.state import Block, Status

LOOK_SECONDS: Final = 1.0
_OWNER: Final = "leader"  # of the blocks
GRACE_SECONDS: Final = 10.0  # an election, or the restart of a broker, takes less


class Leaders:
    """Watches the leaders of the assigned partitions. Only the main loop calls it."""

    def __init__(self, status: Status, clock: Callable[[], float]) -> None:
        self._status = status
        self._clock = clock
        self._look_again_at = 0.0
        self._since: dict[Partition, float] = {}
        self._blocked: set[Partition] = set()
        self.without: frozenset[Partition] = frozenset()
        """The partitions that have no leader, or none that is known, as of the last look."""

    def look(self, consumer: Any, assignments: Iterable[Assignment]) -> None:
        """Look once a second which partitions cannot be fetched, and block those for which that lasts."""
        now = self._clock()
        if now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_SECONDS
        problems = self._problems(consumer, [assignment.partition for assignment in assignments])
        self._since = {partition: self._since.get(partition, now) for partition in problems}
        lasting = {partition for partition, since in self._since.items() if now - since >= GRACE_SECONDS}
        for partition in lasting:
            message = f"{partition}: {problems[partition]}"
            self._status.block(
                Block.of(partition, BlockReason.PARTITION_UNREADABLE), message, retry_in=LOOK_SECONDS, owner=_OWNER
            )
        for partition in self._blocked - lasting:
            self._status.unblock(Block.of(partition, BlockReason.PARTITION_UNREADABLE), owner=_OWNER)
        self._blocked = lasting

    def _problems(self, consumer: Any, partitions: Iterable[Partition]) -> dict[Partition, str]:
        """Return what is wrong with which partition, and note those without a leader.

        Where no broker at all can be reached, it is no fault of a partition, and is reported elsewhere.
        """
        is_connected = client_internals.is_connected(consumer)
        unreachable = client_internals.unreachable(consumer) if is_connected else {}
        states = client_internals.PartitionStates(consumer)
        problems: dict[Partition, str] = {}
        without: list[Partition] = []
        for partition in partitions:
            tp = TopicPartition(*partition)
            leader = client_internals.leader(consumer, tp)
            if leader is None:
                without.append(partition)
            elif leader == -1:
                without.append(partition)
                problems[partition] = "it has no leader: start the brokers that have it, or wait for their return"
            elif leader in unreachable:
                broker = {leader: unreachable[leader]}
                problems[partition] = (
                    f"its leader, {client_config.names_of_unreachable(broker)}, cannot be reached: "
                    + client_config.advice_on_unreachable(
                        broker, "look at that broker, the network, and its advertised.listeners"
                    )
                )
            elif is_connected and states.is_unconfirmed(tp):
                problems[partition] = (
                    f"its leader, broker {leader}, does not confirm the position (OffsetForLeaderEpoch): look at the log of "
                    "that broker"
                )
        self.without = frozenset(without)
        if without:
            client_internals.refresh_metadata(consumer)
        return problems
