"""The records of a partition in a response: which of its batches are read, in which order, and from which offset on.

It replaces the class of kafka-python's fetcher, and returns the same records where that class is right.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Final

from kafka import IsolationLevel
from kafka import errors as kafka_errors

from worker.consumer.client_internals import PartitionStates
from worker.consumer.client_internals.old_batches import OldBatch
from worker.consumer.client_internals.receiving import FetchedRecords
from worker.consumer.record_batches import Batch, Message, batches_of

_LAST_OFFSET: Final = (1 << 63) - 2  # the offset behind it is one too


class Known:
    """What a consumer knows of its partitions. The client does not pass it to the code that reads a response."""

    def __init__(self, states: PartitionStates) -> None:
        self._states = states
        # Where batches beyond the end were left for the next response, each with the ownership in which that was.
        self._left: dict[Any, tuple[object, int]] = {}

    def leader_epoch(self, tp: Any, offset: int) -> int:
        """Return the epoch of what was read before `offset`; -1 where it is not known.

        The client forgets it with each response without records, and then no longer notices that a log was cut.
        """
        position = self._states.position(tp)
        return int(position.leader_epoch) if position is not None and position.offset == offset else -1

    def leave_for_next_response(self, tp: Any, batch: Any) -> bool:
        """Leave a batch that begins beyond the partition's end for the next response; return whether it is left.

        The end comes with the response, and the broker reads it before it reads the records:

        1. The broker notes the end.
        2. A batch is written, and all replicas copy it.
        3. The broker reads the records, that batch too.

        The next response has a later end. A batch that is beyond that too has a damaged offset, which no checksum covers:
        raises `CorruptRecordError`.
        """
        end = self._states.high_watermark(tp)
        if end is None or batch.base_offset < end:
            self._left.pop(tp, None)
            return False
        ownership = self._states.ownership(tp)
        left_in, left_at = self._left.get(tp, (None, -1))
        if left_in is ownership and left_at == batch.base_offset:
            raise kafka_errors.CorruptRecordError(f"a batch at offset {batch.base_offset}, and the log ends at {end}")
        self._left[tp] = (ownership, batch.base_offset)
        return True


class PartitionRecords(FetchedRecords):
    """The records of a partition in a response.

    Their offsets ascend from the one that was asked for, and each is within the range of its batch. Anything else is corrupt.
    """

    def __init__(self, fetch_offset: int, tp: Any, records: Any, *, known: Known | None = None, **options: Any) -> None:
        super().__init__(fetch_offset, tp, records, **options)
        self._known = known
        if known is not None:
            self.leader_epoch = known.leader_epoch(tp, fetch_offset)

    def records_of(self, data: bytes) -> Iterator[Message]:
        """Yield the messages in the partition's bytes."""
        behind = 0  # where the batch before ended
        for batch in batches_of(data):
            if self.check_crcs and not batch.has_right_checksum():
                raise self._corrupt("record batch", batch.base_offset)
            first, last = batch.base_offset, batch.last_offset
            # The offset of an old batch is that of its last message.
            least = 0 if isinstance(batch, OldBatch) else behind
            if not least <= first <= last <= _LAST_OFFSET or last < max(self.fetch_offset, behind):
                raise kafka_errors.CorruptRecordError(
                    f"a batch of the offsets {first} to {last}, where {max(self.fetch_offset, behind)} is next"
                )
            if self._known is not None and self._known.leave_for_next_response(self.topic_partition, batch):
                break
            self.bytes_read += batch.size_in_bytes
            if isinstance(batch, OldBatch):
                yield from self._of_old_format(batch, behind)
            else:
                yield from self._of_format_2(batch)
            self.next_fetch_offset = behind = last + 1  # what was compacted away at its end is not asked for again
        self.drain()

    def _of_format_2(self, batch: Batch) -> Iterator[Message]:
        self.leader_epoch = batch.leader_epoch
        if self._is_left_out(batch):
            return
        messages = batch.messages()
        if batch.base_offset < self.fetch_offset:
            messages = itertools.dropwhile(self.is_before_the_fetch, messages)
        for message in messages:
            self.next_fetch_offset = message.offset + 1
            yield message
        self.records_read += batch.records_count

    def _is_left_out(self, batch: Batch) -> bool:
        """Return whether the batch is a transaction's marker, or of a transaction that was aborted."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id:
            is_aborted = self.is_aborted(batch, batch.last_offset)
            if batch.is_abort_marker():
                self.aborted_producer_ids.discard(batch.producer_id)
            elif is_aborted:
                return True
        return batch.is_control_batch

    def _of_old_format(self, batch: OldBatch, behind: int) -> Iterator[Message]:
        self.leader_epoch = -1
        before = behind - 1
        for record in batch.records(check_crcs=self.check_crcs):
            if not record.has_right_checksum:
                raise self._corrupt("record", record.offset)
            if not before < record.offset <= batch.base_offset:
                raise kafka_errors.CorruptRecordError(
                    f"a message at offset {record.offset} behind {before}, in a batch that ends at {batch.base_offset}"
                )
            before = record.offset
            self.records_read += 1
            if record.offset < self.fetch_offset:
                continue
            self.next_fetch_offset = record.offset + 1
            yield Message(record.offset, record.timestamp, record.key, record.value, ())

    def _corrupt(self, what: str, offset: int) -> Any:
        return kafka_errors.CorruptRecordError(
            f"{what} of partition {self.topic_partition} at offset {offset} failed its crc check"
        )
