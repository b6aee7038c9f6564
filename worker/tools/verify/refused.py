"""The records of a topic that have a dead letter.

Their version was refused, so the one before it must be in the index; or it was written later, when the group read the topic
again with other settings, and the dead letter stayed. So such a version may be in the index, and need not.
"""

from collections.abc import Collection
from typing import Final

from worker.deadletters.headers import CONNECTOR_NAME, read_headers
from worker.tools.scan import Scanner

OTHERS: Final = -1


def refused_places(
    scanner: Scanner, topic: str, indexes: Collection[str], group_id: str, dead_letter_topic: str
) -> set[tuple[int, ...]]:
    """Return (partition, offset) of the records of `topic` that have a dead letter of the group for one of `indexes`.

    For one record of a message with several it is (partition, offset, place in the message). A message of which one dead letter is
    for many records has `OTHERS` as a place, too: it does not say which they are.
    Another group may read the same topic, for another index or into another bucket, and share the dead-letter topic: what was
    refused there may have been accepted here. A dead letter that names no index, or no group, counts. Without a dead-letter
    topic there are none. Raises `FatalError`.
    """
    if not dead_letter_topic:
        return set()
    found: set[tuple[int, ...]] = set()
    for _, messages in scanner.read(scanner.everything(scanner.partitions(dead_letter_topic))):
        for message in messages:
            said = read_headers(message.headers)
            is_ours = (
                said.topic == topic
                and said.index in ("", *indexes)
                and said.values.get(CONNECTOR_NAME) in (None, group_id)
            )
            if is_ours and said.partition is not None and said.offset is not None:
                place = (said.partition, said.offset)
                found.add(place if said.element is None else (*place, said.element))
                if said.elements > 1:
                    found.add((*place, OTHERS))
    return found
