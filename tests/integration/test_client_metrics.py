"""What is counted of the group's consumer, beside what the client itself says of it, on a real broker."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from kafka.errors import KafkaError, RebalanceInProgressError, RequestTimedOutError, UnknownMemberIdError

from tests.support.bounded import join, thread
from tests.support.broker import TopicFactory
from tests.support.member import Member
from tests.support.worker import Record, publish
from worker.errors import BrokerUnavailable
from worker.local.broker import Broker

SESSION_S = 6.0  # a heartbeat is every third of it
RECORDS = [Record(None, bytes(1000)) for _ in range(50)]


class Watched:
    """A member, with its figures and the client's own."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self.member = Member(bootstrap, topic, SESSION_S)

    def value(self, name: str, **labels: str) -> float:
        """A metric's value; the name goes without `oss_vectors_kafka_client_`."""
        value = self.member.metrics.registry.get_sample_value(f"oss_vectors_kafka_client_{name}", labels)
        assert value is not None
        return value

    def own(self, group: str) -> dict[str, float]:
        """The client's own figures, of which the average over its last minute is one."""
        found: dict[str, float] = self.member.source._consumer.metrics()[f"consumer-{group}"]
        return found

    def own_count(self, group: str, rate: str) -> float:
        """How often it happened in the client's last minute, of which it tells the rate."""
        figures = self.member.source._consumer.metrics(raw=True)
        (figure,) = (one for name, one in figures.items() if (name.group, name.name) == (f"consumer-{group}", rate))
        return float(figure.measurable._stat.measure(figure.config, time.monotonic() * 1000))

    def read(self, count: int) -> None:
        """Start a consumer and read so many records."""
        self.member.opened.clear()
        self.member.read.clear()
        self.member.source.start()
        self.member.turns_until(lambda: self.member.count == count, "all is read")


@pytest.fixture
def watched(broker: Broker, new_topic: TopicFactory) -> Iterator[Watched]:
    topic = new_topic()
    publish(broker.bootstrap, topic, RECORDS)
    watched = Watched(broker.bootstrap, topic)
    yield watched
    watched.member.source.close(2.0)


def counted(watched: Watched) -> dict[str, Any]:
    """Everything that is counted."""
    return {
        "fetches": watched.value("fetch_duration_seconds_count"),
        "bytes": watched.value("fetched_bytes_total", topic=watched.topic),
        "rebalances": watched.value("rebalance_duration_seconds_count"),
        "failed rebalances": watched.value("failed_rebalances_total"),
        "connections": watched.value("connections"),
        "connection errors": watched.value("connection_errors_total"),
        "heartbeat": watched.value("last_heartbeat_timestamp_seconds"),
    }


def gauges(watched: Watched) -> dict[str, float | None]:
    """How many partitions are assigned and paused."""
    registry = watched.member.metrics.registry
    return {name: registry.get_sample_value(f"oss_vectors_{name}_partitions") for name in ("assigned", "paused")}


def has_the_clients_mean(watched: Watched) -> bool:
    """Whether fetches take as long on average as the client says, in milliseconds."""
    mean = watched.value("fetch_duration_seconds_sum") / watched.value("fetch_duration_seconds_count") * 1000
    return bool(mean == pytest.approx(watched.own("fetch-manager-metrics")["fetch-latency-avg"], rel=0.05, abs=5))


def has_the_clients_heartbeat(watched: Watched) -> bool:
    """Whether the last heartbeat is as old as the client says."""
    age = time.time() - watched.value("last_heartbeat_timestamp_seconds")
    return bool(age == pytest.approx(watched.own("coordinator-metrics")["last-heartbeat-seconds-ago"], abs=0.5))


def test_the_figures_agree_with_the_clients_own_and_go_on_with_the_next_consumer(watched: Watched) -> None:
    began = time.time()
    assert set(counted(watched).values()) == {0}

    watched.read(len(RECORDS))
    member = watched.member
    member.turns_until(lambda: watched.value("last_heartbeat_timestamp_seconds"), "a heartbeat was answered")

    # The client fetches and sends heartbeats all the while, so that what is read at different moments may be of one more.
    member.turns_until(lambda: has_the_clients_mean(watched), "the mean of fetches is the client's own")
    member.turns_until(lambda: has_the_clients_heartbeat(watched), "the age of the heartbeat is the client's own")

    first = counted(watched)
    assert 1000 * len(RECORDS) < first["bytes"] < 1100 * len(RECORDS)
    assert first["rebalances"] == watched.own_count("coordinator-metrics", "sync-rate") > 0
    assert first["connection errors"] == 0
    assert 0 < watched.value("rebalance_duration_seconds_sum") < time.time() - began
    assert first["connections"] == watched.own("metrics")["connection-count"] > 0

    member.source.steer({})
    assert gauges(watched) == {"assigned": 1, "paused": 1}
    member.source._abandon()
    assert watched.value("connections") == 0
    assert gauges(watched) == {"assigned": 0, "paused": 0}
    watched.read(len(RECORDS))

    second = counted(watched)
    assert second["bytes"] == 2 * first["bytes"]
    assert second["fetches"] > first["fetches"]
    assert second["rebalances"] == first["rebalances"] + watched.own_count("coordinator-metrics", "sync-rate")
    # A broker that has just started refuses the first joins, for its coordinator is not ready.
    assert second["failed rebalances"] == first["failed rebalances"]
    assert second["connection errors"] == 0
    assert second["connections"] == watched.own("metrics")["connection-count"] > 0

    assert gauges(watched) == {"assigned": 1, "paused": 0}
    member.source.steer({})  # as a drain does
    assert gauges(watched) == {"assigned": 1, "paused": 1}
    member.source.close(2.0)
    assert gauges(watched) == {"assigned": 0, "paused": 0}
    assert counted(watched) | {"connections": 0} == counted(watched)


@pytest.mark.parametrize(
    ("error", "counted"), [(RebalanceInProgressError(), 0), (UnknownMemberIdError(), 1)], ids=["rebalance", "unknown"]
)
def test_of_a_commit_that_falls_into_a_rebalance_no_error_is_told(
    watched: Watched, error: KafkaError, counted: int
) -> None:
    watched.read(len(RECORDS))
    (assignment,) = watched.member.ledger.assignments()
    watched.member.source._commits.enter_answer({assignment: 5}, error)
    registry = watched.member.metrics.registry
    assert registry.get_sample_value("oss_vectors_kafka_errors_total", {"kind": "group"}) == counted
    assert registry.get_sample_value("oss_vectors_commits_total", {"result": "failed"}) == 1


def test_a_join_that_the_group_refuses_is_counted_as_failed(watched: Watched) -> None:
    longest = 30 * 60 * 1000  # group.max.session.timeout.ms of the broker
    source = watched.member.source
    source._settings = msgspec.structs.replace(
        source._settings, session_timeout_ms=longest + 1, max_poll_interval_ms=longest + 1
    )
    source.start()
    watched.member.turns_until(lambda: watched.value("failed_rebalances_total") >= 1, "a join is refused")
    assert watched.value("rebalance_duration_seconds_count") == 0


def test_a_connection_that_is_lost_is_counted_as_an_error_and_made_again(watched: Watched) -> None:
    watched.read(len(RECORDS))
    manager: Any = watched.member.source._client_metrics._connections
    before = watched.value("connections")
    lost = next(iter(manager.open_connections))

    manager.call_soon(lambda: lost.close(RequestTimedOutError()))  # as the client does with a silent broker

    watched.member.turns_until(lambda: watched.value("connection_errors_total") == 1, "it is counted")
    watched.member.turns_until(lambda: watched.value("connections") == before, "another is there")


@pytest.fixture
def rude_port() -> Iterator[int]:
    """A port where every connection is taken and closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        rude = thread(hang_up, server, name="rude")
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        join(rude)


def hang_up(server: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the server is closed
        while True:
            server.accept()[0].close()


def test_connections_that_come_to_nothing_are_counted_as_errors_and_leave_no_thread(
    watched: Watched, rude_port: int
) -> None:
    source = watched.member.source
    source._settings = msgspec.structs.replace(
        source._settings, bootstrap_servers=(f"127.0.0.1:{rude_port}",), client={"bootstrap_timeout_ms": 300}
    )
    before = set(threading.enumerate())
    for _ in range(2):
        errors = watched.value("connection_errors_total")
        with pytest.raises(BrokerUnavailable, match="Unable to bootstrap"):
            source.start()
        assert watched.value("connection_errors_total") > errors
    assert watched.value("connections") == 0
    assert set(threading.enumerate()) - before == set()  # threads of earlier tests may have ended
