"""kafka-python's consumer in memory, as far as the source's parts look into it: it notes what is asked, and answers later."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

from kafka import OffsetAndMetadata, TopicPartition
from kafka.future import Future
from kafka.structs import MemberState

COORDINATOR = 7


class Call(NamedTuple):
    """A coroutine that was to run on the client's IO thread, by its name; `answer` is what the test completes."""

    name: str
    arguments: tuple[Any, ...]
    answer: Future


class FakeConsumer:
    """A consumer whose answers the test gives. `sleeps` is called in place of the client's timer."""

    def __init__(
        self, topics: dict[str, int] | None = None, sleeps: Callable[[float], object] = lambda _: None
    ) -> None:
        self.topics = dict(topics or {})  # how many partitions which topic has
        self.topic_ids: dict[str, object] = {}
        self.leader_epochs: dict[TopicPartition, int | None] = {}
        self.calls: list[Call] = []
        self.answers: dict[str, Any] = {}  # by the name of the coroutine, for calls that are waited for
        self.state = MemberState.STABLE
        self.subscribed: list[list[str]] = []
        self.polled: list[dict[TopicPartition, list[Any]] | Exception] = []
        self.owned: set[TopicPartition] = set()
        self.parked: set[TopicPartition] = set()
        self.sought: list[tuple[TopicPartition, Any]] = []
        self.highwaters: dict[TopicPartition, int] = {}
        self.committed: list[dict[TopicPartition, Any]] = []
        self.commit_answers: list[Future] = []
        self.closed = 0
        self._sleeps = sleeps
        self._cluster = SimpleNamespace(
            cluster_id="cluster",
            topic_id=self.topic_ids.get,
            partitions_for_topic=lambda topic: set(range(self.topics.get(topic, 0))),
            leader_for_partition=lambda _: 1,
            leader_epoch_for_partition=lambda tp: self.leader_epochs.get(tp, -1),
            request_update=lambda: Future().success(None),
            brokers=list,
        )
        self._manager = SimpleNamespace(
            call_soon=self._call_soon,
            wait_for=None,
            broker_version_data=SimpleNamespace(api_version=lambda _: 1),
            cluster=self._cluster,
            _conns={COORDINATOR: SimpleNamespace(connected=True)},
            _backoff={},
        )
        self._net = SimpleNamespace(sleep=self._sleep, run=self._run)
        self._subscription = SimpleNamespace(assignment={}, seek=self._seek)
        self._coordinator = SimpleNamespace(coordinator_id=COORDINATOR, _join_task=None, _assignors={})
        self._fetcher = SimpleNamespace(
            _completed_fetches=deque(),
            _next_partition_records=None,
            _next_in_line_exception_metadata=None,
            _paused_completed_fetches={},
            _paused_partition_records={},
        )

    def own(self, *partitions: tuple[str, int]) -> None:
        """Have these assigned."""
        for partition in partitions:
            tp = TopicPartition(*partition)
            self.owned.add(tp)
            self._subscription.assignment[tp] = SimpleNamespace(
                position=None, highwater=None, awaiting_validation=False
            )

    def read_to(self, partition: tuple[str, int], offset: int, leader_epoch: int = -1) -> None:
        """Have read a partition so far."""
        state = self._subscription.assignment[TopicPartition(*partition)]
        state.position = SimpleNamespace(offset=offset, leader_epoch=leader_epoch)

    def answer(self, name: str, answer: Any) -> None:
        """Answer all calls of that name, with a value or an error."""
        for call in self.calls:
            if call.name == name and not call.answer.is_done:
                (call.answer.failure if isinstance(answer, BaseException) else call.answer.success)(answer)

    # -- what the client does

    def _call_soon(self, make: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Future:
        self.calls.append(Call(make.__name__, arguments, Future()))
        if make.__name__ in self.answers:
            self.answer(make.__name__, self.answers[make.__name__])
        return self.calls[-1].answer

    def _run(self, _wait_for: object, future: Future, timeout_ms: int) -> Any:
        self._sleeps(0 if future.is_done else timeout_ms / 1000)
        if future.exception is not None:
            raise future.exception
        return future.value

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)  # another coroutine has its turn
        self._sleeps(seconds)

    def _seek(self, tp: TopicPartition, offset: Any) -> None:
        if tp not in self.owned:
            raise KeyError(tp)
        self.sought.append((tp, offset))
        is_plain = isinstance(offset, int)
        self._subscription.assignment[tp].position = OffsetAndMetadata(offset, "", -1) if is_plain else offset

    def group_metadata(self) -> Any:
        """Return the state of the membership."""
        return SimpleNamespace(state=self.state)

    def subscribe(self, topics: Iterable[str], listener: object) -> None:
        """Note the topics."""
        self.subscribed.append(list(topics))

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        """Return, or raise, what comes next; then nothing."""
        self._sleeps(timeout_ms / 1000)
        found = self.polled.pop(0) if self.polled else {}
        if isinstance(found, Exception):
            raise found
        for tp, messages in found.items():
            if tp in self.owned:
                self.read_to(tp, messages[-1].offset + 1, messages[-1].leader_epoch)
        return found

    def assignment(self) -> set[TopicPartition]:
        """Return what is assigned."""
        return set(self.owned)

    def paused(self) -> set[TopicPartition]:
        """Return what is paused."""
        return set(self.parked)

    def pause(self, tp: TopicPartition) -> None:
        """Pause a partition."""
        if tp not in self.owned:
            raise KeyError(tp)
        self.parked.add(tp)

    def resume(self, tp: TopicPartition) -> None:
        """Resume it."""
        self.parked.discard(tp)

    def highwater(self, tp: TopicPartition) -> int | None:
        """Return what the test has set."""
        return self.highwaters.get(tp)

    def commit_async(
        self, offsets: dict[TopicPartition, Any], callback: Callable[[object, object], None] | None = None
    ) -> Future:
        """Note the commit; the test completes its answer."""
        answer = Future()
        if callback is not None:
            answer.add_both(lambda result: callback(offsets, result))
        self.committed.append(offsets)
        self.commit_answers.append(answer)
        return answer

    def commit(self, offsets: dict[TopicPartition, Any], timeout_ms: int) -> None:
        """Commit, and raise the error that the test has set."""
        self.committed.append(offsets)
        if (error := self.answers.get("commit")) is not None:
            raise error

    def close(self, autocommit: bool = True, timeout_ms: int = 0) -> None:
        """Count it."""
        self.closed += 1
