"""The records of a topic that have a dead letter: their version was never written, so the one before it must be in the index."""

from collections.abc import Collection
from typing import Final

from worker.deadletters.headers import read_headers
from worker.tools.scan import Scanner

OTHERS: Final = -1


def refused_places(
    scanner: Scanner, topic: str, indexes: Collection[str], dead_letter_topic: str
) -> set[tuple[int, ...]]:
    """Return (partition, offset) of the records of `topic` that have a dead letter for one of `indexes`. Raises `FatalError`.

    For one record of a message with several it is (partition, offset, place in the message). A message of which one dead letter is
    for many records has `OTHERS` as a place, too: it does not say which they are.
    Another application may read the same topic for another index, and share the dead-letter topic: what was refused there
    may have been accepted here. A dead letter that names no index counts. Without a dead-letter topic there are none.
    """
    if not dead_letter_topic:
        return set()
    found: set[tuple[int, ...]] = set()
    for _, messages in scanner.read(scanner.everything(scanner.partitions(dead_letter_topic))):
        for message in messages:
            told = read_headers(message.headers)
            is_ours = told.topic == topic and (not told.index or told.index in indexes)
            if is_ours and told.partition is not None and told.offset is not None:
                place = (told.partition, told.offset)
                found.add(place if told.element is None else (*place, told.element))
                if told.elements > 1:
                    found.add((*place, OTHERS))
    return found
