"""The records of a topic that have a dead letter: their version was never written, so the one before it must stand."""

from worker.deadletters.headers import read_headers
from worker.tools.scan import Scanner, Stretch


def refused_places(scanner: Scanner, topic: str, dead_letter_topic: str) -> set[tuple[int, int]]:
    """Return (partition, offset) of the records of `topic` whose dead letter is still there. Raises `FatalError`."""
    partitions = scanner.partitions(dead_letter_topic)
    firsts, ends = scanner.first_offsets(partitions), scanner.end_offsets(partitions)
    found: set[tuple[int, int]] = set()
    for _, messages in scanner.read([Stretch(one, firsts[one], ends[one]) for one in partitions]):
        for message in messages:
            told = read_headers(message.headers)
            if told.topic == topic and told.partition is not None and told.offset is not None:
                found.add((told.partition, told.offset))
    return found
