"""A batch that cannot be read stops its partition, which is told; the others go on, and so does it when it is mended."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import crc32c
import pytest

from tests.support.emulator import Emulator
from tests.support.fronted_broker import FrontedBroker, fronted_broker
from tests.support.member import Member
from tests.support.worker import LIMIT_S, Published, Scrape, Stage, WorkerFactory, publish, vector_record, wait_for

BATCH = 3
GARBAGE = bytes(range(7, 250))
LENGTH_AT, CRC_AT, ATTRIBUTES_AT, RECORDS_AT = 8, 17, 21, 61


def flipped(batch: bytes) -> bytes:
    """One bit of a record turned over."""
    return batch[:-5] + bytes([batch[-5] ^ 1]) + batch[-4:]


def garbage(codec: int) -> Callable[[bytes], bytes]:
    """Records that no decoder takes, under a checksum that is right. The size stays, for the batches behind."""

    def damage(batch: bytes) -> bytes:
        filled = (GARBAGE * (len(batch) // len(GARBAGE) + 1))[: len(batch) - RECORDS_AT]
        attributes = struct.pack(">h", codec)
        checked = attributes + batch[ATTRIBUTES_AT + 2 : RECORDS_AT] + filled
        return batch[:CRC_AT] + struct.pack(">I", crc32c.crc32c(checked)) + checked

    return damage


def of_length(length: int) -> Callable[[bytes], bytes]:
    """A head that gives another length."""
    return lambda batch: batch[:LENGTH_AT] + struct.pack(">i", length) + batch[LENGTH_AT + 4 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": flipped,
    "no records": garbage(0),
    "no gzip": garbage(1),
    "no snappy": garbage(2),
    "no lz4": garbage(3),
    "no zstd": garbage(4),
    "no codec": garbage(6),
    "a length of nothing": of_length(0),
}
BAD = range(1, len(DAMAGES) + 1)  # partition 0 stays as it is


def segment(stage: Stage, partition: int) -> Path:
    """The one file of a partition's records."""
    return stage.broker.data / "records" / f"{stage.topic}-{partition}" / "00000000000000000000.log"


def second_batch(path: Path) -> tuple[int, bytes]:
    """Where the second batch of a file begins, and what it is."""
    whole = path.read_bytes()
    (length,) = struct.unpack_from(">i", whole, LENGTH_AT)
    start = LENGTH_AT + 4 + length
    (length,) = struct.unpack_from(">i", whole, start + LENGTH_AT)
    return start, whole[start : start + LENGTH_AT + 4 + length]


def overwrite(path: Path, start: int, batch: bytes) -> None:
    """Change a file in its place, as a bad disk does under a broker that runs."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(batch)


@pytest.fixture(scope="module")
def front(emulator: Emulator) -> Iterator[FrontedBroker]:
    """A broker whose files may be damaged."""
    with fronted_broker(emulator) as running:
        yield running


def publish_batches(stage: Stage) -> None:
    """Three batches for each partition."""
    for round_number in range(3):
        for partition in range(stage.partitions):
            keys = [f"{partition}-{round_number}-{number}" for number in range(BATCH)]
            vectors = [[float(round_number), float(number), 1.0, 2.0] for number in range(BATCH)]
            records = [vector_record(key, vector, partition) for key, vector in zip(keys, vectors, strict=True)]
            places = publish(stage.broker.bootstrap, stage.topic, records)
            found = zip(keys, vectors, places, strict=True)
            stage.history += [Published(key, vector, place) for key, vector, place in found]


def test_a_batch_that_cannot_be_read_stops_its_partition_alone_until_it_is_mended(
    front: FrontedBroker, start_worker: WorkerFactory
) -> None:
    stage = front.new_stage(partitions=len(DAMAGES) + 1)
    publish_batches(stage)
    sound = {partition: second_batch(segment(stage, partition)) for partition in BAD}
    for (partition, (start, batch)), damage in zip(sound.items(), DAMAGES.values(), strict=True):
        assert len(damage(batch)) == len(batch)
        overwrite(segment(stage, partition), start, damage(batch))

    worker = start_worker(stage.settings())
    readable = {partition: BATCH if partition in BAD else 3 * BATCH for partition in range(stage.partitions)}
    worker.wait_settled(sum(readable.values()), timeout=2 * LIMIT_S)
    expected = {(partition, "partition_unreadable") for partition in BAD}
    wait_for(
        lambda: {(line["partition"], line["reason"]) for line in worker.log_lines("blocked")} == expected,
        "all are told",
    )
    before = worker.metrics()
    after = worker.wait_until(
        lambda now: polled_at(now) > polled_at(before) + 2 and errors(now) >= errors(before) + len(BAD), "it polls on"
    )

    assert after.blocks() == {(stage.topic, "partition_unreadable")}
    assert after.state == "running"
    assert stage.dump() == stage.model(below=readable)
    wait_for(lambda: stage.committed() == readable, "what is before is committed", told=worker.last_words)
    # Each is looked at twice a second, which is `delivery.retry_max_seconds`; the client itself would try without end.
    looks = errors(after) - errors(before)
    seconds = polled_at(after) - polled_at(before)
    assert looks <= len(BAD) * (2 * seconds + 1)
    assert all(f"offset {BATCH}: " in line["error"] for line in worker.log_lines("blocked"))

    for partition, (start, batch) in sound.items():
        overwrite(segment(stage, partition), start, batch)
    worker.wait_until(lambda now: not now.blocks(), "nothing blocks any more")
    stage.wait_committed_to_the_end(worker)
    assert stage.dump() == stage.model()


@pytest.mark.timeout(
    120
)  # it ends a poll that hangs: what it raises is no `Exception`, for the source takes all of those
def test_a_partition_that_is_paused_just_behind_its_bad_batch_does_not_hang_the_poll_when_it_is_resumed(
    front: FrontedBroker,
) -> None:
    stage = front.new_stage(partitions=2)
    publish_batches(stage)
    start, batch = second_batch(segment(stage, 1))
    overwrite(segment(stage, 1), start, flipped(batch))
    member = Member(stage.broker.bootstrap, stage.topic)
    member.source.start()
    member.unwanted = {0, 1}  # until both are open, so that one fetch brings both
    member.turns_until(lambda: len(member.opened) == 2, "both are open")

    member.unwanted = set()
    member.turns_until(lambda: member.count, "records are read")
    member.unwanted = {1}
    member.steer()
    member.turn()
    member.unwanted = set()
    member.turns_until(lambda: member.count == 3 * BATCH + BATCH, "what can be read is read")
    member.turns_until(lambda: member.status.read().blocks, "the partition is told")

    assert [str(block) for block in member.status.read().blocks] == [f"{stage.topic}/1: partition_unreadable"]
    member.source.close(2.0)


def polled_at(now: Scrape) -> float:
    """When it polled."""
    return now.total("last_poll_timestamp_seconds")


def errors(now: Scrape) -> float:
    """How many errors the client told."""
    return now.total("kafka_errors_total")
