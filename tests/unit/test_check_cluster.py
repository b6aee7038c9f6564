"""What `check` says of topics and groups that a test's broker does not have, on stand-ins for the admin client."""

from collections.abc import Generator, Mapping
from typing import Any

import pytest
from kafka import errors as kafka_errors
from kafka.cluster import get_ip_port_afi

from tests.unit.samples import NEEDED
from worker.settings.load import load
from worker.settings.tables import Settings
from worker.tools.brokers import cluster_has_groups, when_loaded
from worker.tools.check import network
from worker.tools.check.cluster import bootstrap_server
from worker.tools.check.configs import duration, number_in
from worker.tools.check.group import group
from worker.tools.check.report import Finding, Status
from worker.tools.check.topics import topics

ALL = ["DESCRIBE", "READ", "WRITE"]


def settings(**given: str) -> Settings:
    """Return settings of the group "workers", with these in place of the defaults."""
    changed = {"kafka__group_id": "workers"} | given
    return load(None, NEEDED | {f"OSS_VECTORS_{name.upper()}": value for name, value in changed.items()}).settings


class FakeAdmin:
    """A cluster in which everything is as it should be, until a test changes it."""

    def __init__(self) -> None:
        self.has_offsets_topic = True
        self.groups: list[dict[str, Any]] = []
        self.described: dict[str, Any] | Exception = {
            "error": None,
            "protocol_type": "consumer",
            "protocol_data": "cooperative-sticky",
            "members": [],
            "authorized_operations": ALL,
        }
        self.topics: dict[str, dict[str, Any]] = {name: self.topic(name) for name in ("vectors", "vectors.dlq")}
        self.configs: dict[str, dict[str, str]] = {}

    @staticmethod
    def topic(name: str, leader: int = 1, error: int = 0) -> dict[str, Any]:
        partitions = [{"partition_index": number, "leader_id": leader, "isr_nodes": [1]} for number in range(2)]
        return {"name": name, "error_code": error, "partitions": partitions, "authorized_operations": ALL}

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        if names == ["__consumer_offsets"]:
            return [self.topic("__consumer_offsets", error=0 if self.has_offsets_topic else 3)]
        return [self.topics[name] for name in names]

    def describe_configs(self, resources: list[Any], config_filter: str) -> Mapping[str, Any]:
        del config_filter
        name = resources[0].name
        if name not in self.configs:
            raise kafka_errors.TopicAuthorizationFailedError
        return {"topic": {name: {key: {"value": value} for key, value in self.configs[name].items()}}}

    def describe_cluster(self) -> Mapping[str, Any]:
        return {"authorized_operations": []}

    def list_groups(self) -> list[dict[str, Any]]:
        return self.groups

    def describe_groups(self, names: list[str]) -> Mapping[str, Any]:
        if isinstance(self.described, Exception):
            raise self.described
        return {names[0]: self.described}

    def joined(self, **fields: Any) -> None:
        """Let a member be there."""
        assert isinstance(self.described, dict)
        member = {"client_id": "app", "client_host": "/10.0.0.1", "member_metadata": {"topics": ["vectors"]}}
        self.described |= {"members": [member]} | fields


def run(section: Generator[Finding, None, Any]) -> tuple[list[Finding], Any]:
    """Return findings and result of a section."""
    found = []
    while True:
        try:
            found.append(next(section))
        except StopIteration as end:
            return found, end.value


def statuses(found: list[Finding]) -> dict[str, Status]:
    """Return the status by check; a fault and a warning must have advice."""
    assert all(one.advice for one in found if one.status in (Status.FAULT, Status.WARNING))
    return {one.check: one.status for one in found}


# -- the group


def test_a_group_that_may_be_joined_is_ok() -> None:
    admin = FakeAdmin()
    admin.joined()
    found, goes_on = run(group(settings(), admin))
    assert (statuses(found), goes_on) == ({"group.right": Status.OK, "group": Status.OK}, True)
    assert found[1].result == "1 member now: app at 10.0.0.1"


@pytest.mark.parametrize("kind", ["Consumer", "share", "streams"])
def test_a_group_of_another_type_is_a_fault(kind: str) -> None:
    """Kafka 4 has types that a classic member cannot join; asked as a classic group, the broker says there is none."""
    admin = FakeAdmin()
    admin.groups = [{"group_id": "workers", "protocol_type": "consumer", "group_type": kind}]
    found, goes_on = run(group(settings(), admin))
    assert (statuses(found), goes_on) == ({"group": Status.FAULT}, False)
    assert kind.lower() in found[0].result


def test_a_group_of_another_kind_of_application_is_a_fault() -> None:
    admin = FakeAdmin()
    admin.joined(protocol_type="connect")
    found, _ = run(group(settings(), admin))
    assert statuses(found)["group"] is Status.FAULT
    assert "connect" in found[-1].result


@pytest.mark.parametrize(
    ("topic", "assignor", "check", "status"),
    [
        ("vectors", "cooperative-sticky", "group", Status.OK),
        ("images", "cooperative-sticky", "group", Status.WARNING),
        ("vectors", "range", "group.assignor", Status.FAULT),
    ],
)
def test_a_member_with_the_same_instance_id_is_named_whatever_else_the_members_do(
    topic: str, assignor: str, check: str, status: Status
) -> None:
    admin = FakeAdmin()
    admin.joined(protocol_data=assignor)
    assert isinstance(admin.described, dict)
    admin.described["members"][0] |= {"group_instance_id": "worker-1", "member_metadata": {"topics": [topic]}}
    found, _ = run(group(settings(kafka__group_instance_id="worker-1"), admin))
    assert statuses(found) == {"group.right": Status.OK, check: status, "group.instance": Status.WARNING}
    found, _ = run(group(settings(kafka__group_instance_id="worker-2"), admin))
    assert statuses(found) == {"group.right": Status.OK, check: status}


@pytest.mark.parametrize(
    ("error", "check", "status"),
    [
        (kafka_errors.GroupAuthorizationFailedError(), "group.right", Status.FAULT),
        (kafka_errors.BrokerNotAvailableError(), "group", Status.WARNING),
    ],
)
def test_a_group_that_cannot_be_described(error: Exception, check: str, status: Status) -> None:
    admin = FakeAdmin()
    admin.described = error
    found, goes_on = run(group(settings(), admin))
    assert (statuses(found), goes_on) == ({check: status}, False)


def test_a_group_that_is_not_there_yet_is_ok() -> None:
    admin = FakeAdmin()
    admin.described = {"error": "[Error 69] GroupIdNotFoundError", "group_state": "Dead", "members": []}
    found, goes_on = run(group(settings(), admin))
    assert (statuses(found), goes_on) == ({"group": Status.OK}, True)
    assert "not there yet" in found[0].result


def test_rights_that_the_brokers_do_not_tell_are_not_guessed() -> None:
    admin = FakeAdmin()
    assert isinstance(admin.described, dict)
    admin.described["authorized_operations"] = []
    assert statuses(run(group(settings(), admin))[0])["group.right"] is Status.SKIPPED


def test_no_group_is_asked_for_where_that_would_change_the_cluster() -> None:
    admin = FakeAdmin()
    admin.has_offsets_topic = False
    admin.described = AssertionError("was asked")
    found, goes_on = run(group(settings(), admin))
    assert (statuses(found), goes_on) == ({"group": Status.OK}, True)


def test_a_service_that_hides_its_topic_of_offsets_has_groups_all_the_same() -> None:
    admin = FakeAdmin()
    admin.has_offsets_topic = False
    assert not cluster_has_groups(admin)
    admin.groups = [{"group_id": "any", "group_type": ""}]
    assert cluster_has_groups(admin)


def test_a_coordinator_that_loads_is_asked_again_and_not_for_ever() -> None:
    waits: list[float] = []
    answers: list[Exception | str] = [
        kafka_errors.NotCoordinatorError(),
        kafka_errors.CoordinatorLoadInProgressError(),
        "x",
    ]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert when_loaded(ask, wait=waits.append) == "x"
    assert len(waits) == 2
    answers = [kafka_errors.NotCoordinatorError() for _ in range(100)]
    with pytest.raises(kafka_errors.NotCoordinatorError):
        when_loaded(ask, wait=waits.append)
    assert sum(waits) < 10


# -- topics


def test_partitions_without_a_leader_are_a_fault() -> None:
    admin = FakeAdmin()
    admin.topics["vectors"] = admin.topic("vectors", leader=-1)
    found, _ = run(topics(settings(), admin))
    assert statuses(found)["topic"] is Status.FAULT
    assert found[0].result == "partitions 0, 1 of 2 have no leader"


def test_settings_that_this_user_may_not_see_are_not_guessed() -> None:
    found, there = run(topics(settings(), FakeAdmin()))
    assert statuses(found)["topic.settings"] is Status.SKIPPED
    assert statuses(found)["dead_letter.size"] is Status.SKIPPED
    assert list(there) == ["vectors"]


def test_a_topic_that_is_not_there_is_not_asked_for_its_offsets() -> None:
    admin = FakeAdmin()
    admin.topics["vectors"] = admin.topic("vectors", error=3)
    found, there = run(topics(settings(), admin))
    assert (statuses(found)["topic"], there) == (Status.FAULT, {})


def test_a_reference_in_place_of_a_large_record_is_said() -> None:
    admin = FakeAdmin()
    admin.configs = {key: {"max.message.bytes": "1000"} for key in ("vectors", "vectors.dlq")}
    [size] = [one for one in run(topics(settings(), admin))[0] if one.check == "dead_letter.size"]
    assert "would block its partition" in size.advice
    [size] = [
        one
        for one in run(topics(settings(dead_letter__oversize="reference"), admin))[0]
        if one.check == "dead_letter.size"
    ]
    assert "place without its bytes" in size.advice


def test_records_that_are_kept_for_ever_want_dead_letters_that_are() -> None:
    admin = FakeAdmin()
    admin.configs = {
        "vectors": {"retention.ms": "-1", "max.message.bytes": "1000"},
        "vectors.dlq": {"retention.ms": "86400000", "max.message.bytes": "1000000"},
    }
    found, _ = run(topics(settings(), admin))
    assert statuses(found)["dead_letter.retention"] is Status.WARNING


@pytest.mark.parametrize(
    ("milliseconds", "expected"), [(-1, "for ever"), (604_800_000, "for 7.0 days"), (3_600_000, "for 1.0 h")]
)
def test_durations_in_words(milliseconds: int, expected: str) -> None:
    assert duration(milliseconds) == expected


@pytest.mark.parametrize(("value", "expected"), [("5", 5), ("-1", -1), ("", None), ("much", None), (None, None)])
def test_a_setting_that_is_no_number_is_not_known(value: str | None, expected: int | None) -> None:
    assert number_in({"name": {"value": value}}, "name") == expected


# -- the way to the brokers


@pytest.mark.parametrize(
    ("server", "tried"),
    [
        ("broker", ("broker", 9092)),
        ("broker:19092", ("broker", 19092)),
        ("[::1]", ("::1", 9092)),
        ("[::1]:19092", ("::1", 19092)),
        ("127.0.0.1", ("127.0.0.1", 9092)),
    ],
)
def test_each_address_that_the_settings_accept_is_tried(
    monkeypatch: pytest.MonkeyPatch, server: str, tried: tuple[str, int]
) -> None:
    """Without a port it is the client's own."""
    seen: list[tuple[str, int]] = []

    def note(_check: str, host: str, port: int, _context: object) -> list[Finding]:
        seen.append((host, port))
        return []

    monkeypatch.setattr(network, "server", note)
    assert list(bootstrap_server(settings(kafka__bootstrap_servers=server).kafka, server)) == []
    assert seen == [tried]
    assert get_ip_port_afi(server)[:2] == tried
