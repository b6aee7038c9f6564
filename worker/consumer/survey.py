"""The survey: what holds for whole topics and for the whole group, whichever process owns a partition.

    topics      at each look: is it there, how many partitions has it, which have no leader; the dead-letter topic too
    begins      at each look, for a partition that is assigned and not opened yet: where it will begin, so that its lag shows
    the group   its members, what no worker reads (`coverage.py`), how far it is behind
    retention   when it reaches what is not settled (`retention.py`), and the dead letters

The last two are asked for once a minute, after each rebalance, and at each look while a partition is not read.

It runs on the thread that asks for end offsets, with that consumer, which is no member of the group. So it works whatever
state the membership is in. What is not answered in time, or may not be asked for, is absent.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from kafka import TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.consumer import survey_requests as requests
from worker.consumer.coverage import Offsets, facts_of, strangers
from worker.consumer.offset_requests import Asked
from worker.consumer.repeats import Repeats
from worker.consumer.retention import LogAdvance, RecordAges
from worker.consumer.survey_requests import Found, Group, Limits, Topic
from worker.ledger import Assignment, Ledger, Partition, Phase
from worker.settings.tables import Kafka
from worker.telemetry.kafka_facts import Begin, KafkaFacts, Retention, TopicFacts
from worker.telemetry.state import Status

log = logging.getLogger("worker.survey")

GROUP_SECONDS: Final = 60.0
KEPT_SECONDS: Final = 120.0
"""For how long a fact is shown that is asked for in vain, as in an election or while a broker restarts."""
ANSWER_SECONDS: Final = 5.0  # for one round of requests
LONGEST_SECONDS: Final = 12.0  # for all of one look
_LOOK_SECONDS: Final = 0.02  # between looks whether an answer is there
_NAMED: Final = 10  # how many partitions a log line names
_MISSING: Final = (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError)
_DENIED: Final = (kafka_errors.AuthorizationError,)

Edges = Mapping[TopicPartition, int]


class Survey:
    """Asks the brokers, and enters what they say into the facts. Only the thread of the end offsets calls `look`."""

    def __init__(
        self,
        settings: Kafka,
        topics: Sequence[str],
        dead_letter_topic: str,
        *,
        ledger: Ledger,
        status: Status,
        facts: KafkaFacts,
        clock: Callable[[], float],
        wall: Callable[[], float],
        group_seconds: float = GROUP_SECONDS,
    ) -> None:
        """`dead_letter_topic` may be ""."""
        self._settings = settings
        self._topics = tuple(dict.fromkeys(topics))
        self._dead_letter_topic = dead_letter_topic
        self._ledger = ledger
        self._status = status
        self._facts = facts
        self._clock = clock
        self._wall = wall
        self._group_seconds = group_seconds
        self._group_due_at = -math.inf
        self._group_known_at = -math.inf
        self._owned: frozenset[Partition] = frozenset()  # what this process owned when the group was asked for
        self._answered_at = clock()
        self._others: tuple[str, ...] = ()  # topics without a route here that the group has committed offsets of
        self._coordinator: int | None = None
        self._ages = RecordAges()
        self._advance = LogAdvance()
        self._denied: set[str] = set()
        self._strangers: frozenset[tuple[str, str]] = frozenset()
        self._repeats = Repeats(clock)
        self._round = _Round(clock, lambda _: True)

    def look(self, consumer: Any, pause: Callable[[float], bool]) -> None:
        """Ask for what is due. `pause` waits some seconds and returns True where the survey is to end.

        It raises nothing: what it asks for is shown, and nothing depends on it.
        """
        self._round = _Round(self._clock, pause)
        try:
            self._look(consumer)
        except _Cut:
            return
        except Exception as error:  # the client raises errors of every kind
            self.note_failure()
            described = client_config.describe(error)
            if self._repeats.admit(described):
                log.warning("topics and group not known", extra={"error": described})

    def note_failure(self) -> None:
        """Note that the brokers do not answer, and forget all where that lasts."""
        self._coordinator = None
        self._group_due_at = -math.inf
        if self._clock() - self._answered_at >= KEPT_SECONDS:
            self._facts.clear()

    def _look(self, consumer: Any) -> None:
        found = self._ask_topics(consumer)
        self._answered_at = self._clock()
        leaders = {
            TopicPartition(name, number): node
            for name, topic in found.items()
            for number, node in topic.leaders.items()
        }
        assignments = self._ledger.assignments()
        self._find_begins(consumer, leaders, assignments)
        now, owned = self._clock(), frozenset(each.partition for each in assignments)
        if now < self._group_due_at and owned == self._owned:
            return
        self._owned = owned
        edges = [self._ask_edges(consumer, leaders, edge) for edge in (requests.BEGINNING, requests.END)]
        self._enter_log_starts(edges[0], assignments)
        self._enter_retention(consumer, leaders, edges[0], edges[1], assignments)
        if self._enter_group(consumer, found, edges[0], edges[1]):
            self._group_due_at = now + self._group_seconds

    # -- topics

    def _ask_topics(self, consumer: Any) -> dict[str, Topic]:
        """Return the topics that are there, and enter which are not."""
        names = dict.fromkeys([*self._topics, self._dead_letter_topic, *self._others])
        names.pop("", None)
        answers = self._whole(requests.ask_topics(consumer, names))
        there: dict[str, Topic] = {name: topic for name, topic in answers.items() if topic.error is None}
        facts = {}
        for name in names:
            error = answers[name].error if name in answers else _MISSING[0]
            if name in there:
                leaders = there[name].leaders.values()
                facts[name] = TopicFacts(False, len(leaders), sum(node < 0 for node in leaders))
            elif error is not None and issubclass(error, (*_MISSING, *_DENIED)) and name not in self._others:
                facts[name] = TopicFacts(True)
        self._note_missing(facts)
        self._facts.topics = facts
        return there

    def _note_missing(self, facts: Mapping[str, TopicFacts]) -> None:
        for name, fact in facts.items():
            was_missing = name in self._facts.topics and self._facts.topics[name].is_missing
            is_dead_letters = name == self._dead_letter_topic
            message = ""
            if fact.is_missing:
                what = f"the dead-letter topic {name!r}" if is_dead_letters else f"the topic {name!r}"
                then = "the first bad record will block its topic" if is_dead_letters else "nothing is read of it"
                message = f"{what} is not there, or not shown to this user: {then}"
            if message and not was_missing:
                log.error("topic missing", extra={"topic": name, "error": message})
            elif was_missing and not message:
                log.info("topic no longer missing", extra={"topic": name})
            self._status.warn(f"topic missing: {name}", message)

    # -- offsets

    def _ask_edges(self, consumer: Any, leaders: Edges, edge: int) -> dict[TopicPartition, int]:
        level = self._settings.isolation_level
        asked = requests.ask_times(consumer, leaders, dict.fromkeys(leaders, edge), level)
        return {tp: found.offset for tp, found in self._parts(asked).items() if found.offset >= 0}

    def _find_begins(self, consumer: Any, leaders: Edges, assignments: Iterable[Assignment]) -> None:
        """Enter where the assigned partitions begin that wait to be opened, such as for credentials that are refused."""
        waiting = [TopicPartition(*each.partition) for each in assignments if each.phase is Phase.OPENING]
        begins: dict[Partition, Begin] = {}
        if waiting and (committed := self._committed(consumer)) is not None:
            edge = {"earliest": requests.BEGINNING, "latest": requests.END}.get(self._settings.auto_offset_reset)
            without = {tp: edge for tp in waiting if tp not in committed and edge is not None}
            asked = requests.ask_times(consumer, leaders, without, self._settings.isolation_level)
            firsts = committed | {tp: found.offset for tp, found in self._parts(asked).items() if found.offset >= 0}
            begins = {Partition(*tp): Begin(firsts[tp], committed.get(tp)) for tp in waiting if tp in firsts}
        self._facts.begins = begins

    def _enter_log_starts(self, starts: Edges, assignments: Iterable[Assignment]) -> None:
        owned = {each.partition for each in assignments}
        self._facts.log_starts = {Partition(*tp): at for tp, at in starts.items() if Partition(*tp) in owned}
        self._advance.note(starts, self._clock())

    # -- the group

    def _committed(self, consumer: Any) -> dict[TopicPartition, int] | None:
        """Return all that the group has committed, None where that is not known."""
        group = self._settings.group_id
        if (node := self._find_coordinator(consumer)) is None:
            return None
        answer = self._one(requests.ask_all_committed(consumer, node, group), "the group's offsets")
        if not isinstance(answer, dict):
            self._coordinator = None  # it may have moved
            return None
        return answer

    def _find_coordinator(self, consumer: Any) -> int | None:
        if self._coordinator is None:
            answer = self._one(requests.ask_coordinator(consumer, self._settings.group_id), "the group's coordinator")
            self._coordinator = answer if isinstance(answer, int) else None
        return self._coordinator

    def _enter_group(self, consumer: Any, topics: Mapping[str, Topic], begins: Edges, ends: Edges) -> bool:
        """Enter what is known of the group; return False where it is to be asked again soon.

        So it is while some partitions are not read: that should end, as at each start, and then be over at once.
        """
        node, committed = self._find_coordinator(consumer), self._committed(consumer)
        group: Any = None
        if node is not None and committed is not None:
            group = self._one(requests.ask_group(consumer, node, self._settings.group_id), "the group (DESCRIBE)")
        if not isinstance(group, Group) or committed is None:
            self._coordinator = None
            if self._clock() - self._group_known_at >= KEPT_SECONDS:
                self._facts.group = None
            return False
        self._others = tuple(sorted({tp.topic for tp in committed} - {*self._topics, self._dead_letter_topic}))
        if not group.is_settled:
            return False  # what was known before the rebalance stays
        partitions = {
            TopicPartition(name, number)
            for name in (*self._topics, *self._others)
            if name in topics
            for number in topics[name].leaders
        }
        offsets = Offsets(committed, begins, ends)
        self._facts.group = facts_of(group, self._topics, partitions, offsets, self._settings.auto_offset_reset)
        self._group_known_at = self._clock()
        self._log_strangers(group)
        return not any(self._facts.group.unassigned.values())

    def _log_strangers(self, group: Group) -> None:
        found = strangers(group)
        known, self._strangers = self._strangers, frozenset((each.client_id, each.host) for each in found)
        for each in found:
            if (each.client_id, each.host) not in known:
                log.error(
                    "a member of the group is no worker of this software, and owns partitions: no record of them is written",
                    extra={
                        "client_id": each.client_id,
                        "host": each.host,
                        "partitions": [str(Partition(*tp)) for tp in sorted(each.owned)[:_NAMED]],
                    },
                )

    # -- retention

    def _enter_retention(
        self, consumer: Any, leaders: Edges, starts: Edges, ends: Edges, assignments: Sequence[Assignment]
    ) -> None:
        topics = {each.partition.topic for each in assignments}
        dead_letters = {tp for tp in leaders if tp.topic == self._dead_letter_topic}
        limits = self._ask_limits(consumer, [*topics, *({self._dead_letter_topic} if dead_letters else ())])
        waiting = self._waiting(starts, ends, assignments)
        deadlines = dict.fromkeys(topics, math.inf)
        for tp, deadline in self._deadlines_of(consumer, leaders, waiting, limits).items():
            deadlines[tp.topic] = min(deadlines[tp.topic], deadline)
        limit = limits.get(self._dead_letter_topic)
        oldest = None if limit is None else self._oldest(consumer, leaders, dead_letters, limit)
        self._facts.retention = Retention(deadlines, oldest)

    def _waiting(self, starts: Edges, ends: Edges, assignments: Iterable[Assignment]) -> dict[TopicPartition, int]:
        """Return the first offset of each owned partition that is not settled and that its log still has."""
        waiting = {}
        for each in assignments:
            tp, begin = TopicPartition(*each.partition), self._facts.begins.get(each.partition)
            at = each.watermark if each.is_open else None if begin is None else begin.position
            if at is not None and tp in ends and max(at, starts.get(tp, 0)) < ends[tp]:
                waiting[tp] = max(at, starts.get(tp, 0))
        return waiting

    def _ask_limits(self, consumer: Any, names: Sequence[str]) -> dict[str, Limits]:
        if not names:
            return {}
        answers = self._answers([requests.ask_limits(consumer, names)])
        for name, answer in answers.items():
            if isinstance(answer, BaseException):
                self._note_denied(f"the limits of the topic {name} (DESCRIBE_CONFIGS)", answer)
        return {name: answer for name, answer in answers.items() if isinstance(answer, Limits)}

    def _deadlines_of(
        self, consumer: Any, leaders: Edges, waiting: Mapping[TopicPartition, int], limits: Mapping[str, Limits]
    ) -> dict[TopicPartition, float]:
        kept = {name: limit.seconds for name, limit in limits.items() if limit.seconds is not None}
        level = self._settings.isolation_level

        def ask(timestamps: Mapping[TopicPartition, int]) -> dict[TopicPartition, Found]:
            return self._parts(requests.ask_times(consumer, leaders, timestamps, level))

        by_time = {tp: at for tp, at in waiting.items() if tp.topic in kept}
        times = self._ages.times(by_time, kept, self._wall(), ask)
        deadlines = {}
        for tp, at in waiting.items():
            limit = limits.get(tp.topic)
            deadline = times[tp] + kept[tp.topic] if tp in times else math.inf
            if limit is None or limit.size is not None:
                deadline = min(deadline, self._wall() + self._advance.seconds_until(tp, at))
            deadlines[tp] = deadline
        return deadlines

    def _oldest(self, consumer: Any, leaders: Edges, partitions: Iterable[TopicPartition], limit: Limits) -> float:
        """Return when the oldest dead letter is deleted, in Unix time."""
        if limit.seconds is None:
            return math.inf
        wanted = dict.fromkeys(partitions, requests.OLDEST)
        found = self._parts(requests.ask_times(consumer, leaders, wanted, self._settings.isolation_level))
        oldest = [one.timestamp for one in found.values() if one.offset >= 0 and one.timestamp >= 0]
        return min(oldest) / 1000 + limit.seconds if oldest else math.inf

    # -- answers

    def _answers(self, asked: Sequence[Asked]) -> dict[Any, Any]:
        return self._round.answers(asked)

    def _parts(self, asked: Sequence[Asked]) -> dict[Any, Any]:
        """Return the answers that are none of an error; a part that has none is not known."""
        return {key: answer for key, answer in self._answers(asked).items() if not isinstance(answer, BaseException)}

    def _whole(self, asked: Asked) -> dict[Any, Any]:
        """Return all answers. Raises what one of them is, and that none came in time."""
        answers = self._answers([asked])
        for answer in answers.values():
            if isinstance(answer, BaseException) and not isinstance(answer, kafka_errors.UnknownTopicOrPartitionError):
                raise answer
        if not answers and asked.partitions:
            raise kafka_errors.KafkaTimeoutError("no answer")
        return {key: answer for key, answer in answers.items() if not isinstance(answer, BaseException)}

    def _one(self, asked: Asked, what: str) -> Any:
        """Return the one answer; None where it is an error or there is none. A missing right is logged."""
        answer = next(iter(self._answers([asked]).values()), None)
        if isinstance(answer, BaseException):
            self._note_denied(what, answer)
            return None
        return answer

    def _note_denied(self, what: str, error: BaseException) -> None:
        if isinstance(error, _DENIED) and what not in self._denied:
            self._denied.add(what)
            log.warning(
                "not allowed to ask, so its metrics are absent",
                extra={"detail": what, "error": client_config.describe(error)},
            )


class _Cut(Exception):
    """The survey is to end now."""


class _Round:
    """The waiting of one survey."""

    def __init__(self, clock: Callable[[], float], pause: Callable[[float], bool]) -> None:
        self._clock = clock
        self._pause = pause
        self._ends_at = clock() + LONGEST_SECONDS

    def answers(self, asked: Sequence[Asked]) -> dict[Any, Any]:
        """Return the answers to all that came in time; raises `_Cut` where the survey is to end."""
        deadline = min(self._clock() + ANSWER_SECONDS, self._ends_at)
        while not all(one.is_done for one in asked) and self._clock() < deadline:
            if self._pause(_LOOK_SECONDS):
                raise _Cut
        return {key: answer for one in asked if one.is_done for key, answer in one.answers().items()}
