"""Each trouble: how it is brought about, how it is fixed, and which alerts are right."""

import datetime as dt
import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import alibabacloud_oss_v2.vectors as sdk
import trustme
from kafka import KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from tests.integration.test_kafka_unreadable import garbage, overwrite, second_batch
from tests.support.bounded import join, thread
from tests.support.proxy import Proxy
from tests.support.worker import publish
from tests.troubles.case import Case
from tests.troubles.stand import Stand

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = "<html><body><h1>We are back soon</h1></body></html>"
Step = Callable[[Stand, Case], None]


def nothing(_stand: Stand, _case: Case) -> None:
    """Do nothing."""


def undo(_stand: Stand, case: Case) -> None:
    """Take back what the beginning has put into `case.undo`."""
    case.undo.close()


def one_worker(_stand: Stand, case: Case) -> None:
    """Start one worker."""
    case.start()


@dataclass(frozen=True)
class Trouble:
    """A trouble. `alerts` is a pattern of the names that are right, "" where none should fire. `start` is its time before."""

    name: str
    alerts: str
    begin: Step
    fix: Step
    start: Step = one_worker
    broker: str = "shared"
    """"shared", "alone" (a broker that may stop), or "second" (the group's coordinator is the node that goes away)."""
    placed: bool = False
    """Whether partition 1 is on the node that goes away."""
    workers: int = 1


# -- the service


def fault(**rule: Any) -> Step:
    """Put a fault in force for the case's bucket."""
    return lambda stand, case: void(stand.emulator.fault(bucket=case.bucket, **rule))


def void(_result: object) -> None:
    """Drop a result."""


def no_fault(stand: Stand, case: Case) -> None:
    """Let the service answer as before."""
    stand.emulator.clear_faults(case.bucket)


def credentials(_stand: Stand, case: Case, secret: str, **more: object) -> None:
    """Write the file with the case's credentials."""
    path = case.folder / f"{case.job}.credentials.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"access_key_id": "test", "access_key_secret": secret, **more}))
    fresh.rename(path)
    case.overrides |= {"oss__credentials": "file", "oss__credentials_file": str(path)}


def right_credentials(stand: Stand, case: Case) -> None:
    """Write those that the service accepts."""
    credentials(stand, case, "test")


def wrong_credentials(stand: Stand, case: Case) -> None:
    """Write those that it refuses."""
    credentials(stand, case, "wrong")


def with_right_credentials(stand: Stand, case: Case) -> None:
    """Start a worker whose credentials are in a file."""
    right_credentials(stand, case)
    case.start()


def start_with_wrong_credentials(stand: Stand, case: Case) -> None:
    """Start the first worker, behind a backlog, with credentials that are refused."""
    wrong_credentials(stand, case)
    case.start()


def expiring_credentials(_stand: Stand, case: Case) -> None:
    """Restart with a program whose credentials end in four minutes, and which gives no newer ones."""
    end = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=4)
    told = {"mode": "StsToken", "access_key_id": "test", "access_key_secret": "test", "sts_token": "t"}
    path = case.folder / f"{case.job}.sts.json"
    path.write_text(json.dumps({**told, "expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ")}))
    case.restart(oss__credentials="process", oss__credentials_process=f"cat {path}")


def lasting_credentials(_stand: Stand, case: Case) -> None:
    """Restart with credentials from the environment."""
    case.restart(oss__credentials="environment", oss__credentials_process=None)


def expiring_certificate(_stand: Stand, case: Case) -> None:
    """Restart with a certificate of the service's authority that ends in two days."""
    end = dt.datetime.now(dt.UTC) + dt.timedelta(days=2)
    path = case.folder / f"{case.job}.pem"
    trustme.CA().issue_cert("localhost", not_after=end).cert_chain_pems[0].write_to_path(str(path))
    case.restart(oss__ca_file=str(path))


def no_certificate(_stand: Stand, case: Case) -> None:
    """Restart without it."""
    case.restart(oss__ca_file=None)


def delete_index(stand: Stand, case: Case) -> None:
    """Delete the index."""
    request = sdk.models.DeleteVectorIndexRequest(bucket=case.bucket, index_name=case.index)
    stand.emulator.client().delete_vector_index(request)


def create_index(stand: Stand, case: Case) -> None:
    """Create the index again."""
    stand.emulator.new_index(bucket=case.bucket, index=case.index)


def with_dimension(dimension: int) -> Step:
    """Restart with a route that says this dimension."""

    def restart(_stand: Stand, case: Case) -> None:
        route = {"topic": case.topic, "index": case.index, "dimension": dimension}
        case.environment["OSS_VECTORS_ROUTES"] = json.dumps([route])
        case.restart()

    return restart


# -- records


def bad(every: int) -> Step:
    """Let each so manieth record be bad, at ten a second; 0 is none, and the usual rate."""

    def begin(_stand: Stand, case: Case) -> None:
        case.bad_every, case.rate = every, 10.0 if every else 1.0

    return begin


def accept_bad(stand: Stand, case: Case) -> None:
    """Stop the bad records, and let those that wait become dead letters, as the runbook says."""
    bad(0)(stand, case)
    until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    case.restart(dead_letter__accept_until=until.strftime("%Y-%m-%dT%H:%M:%SZ"))


def rare_bad(every: int) -> Step:
    """Let each so manieth record be bad, at the usual rate."""
    return lambda _stand, case: setattr(case, "bad_every", every)


def poisoned(stand: Stand, case: Case) -> None:
    """One record gets 500 each time, and others are accepted."""
    stand.emulator.fault(bucket=case.bucket, key_contains="poison", status=500)
    case.poison_every = 120


def not_poisoned(stand: Stand, case: Case) -> None:
    """No more of these."""
    case.poison_every = 0
    no_fault(stand, case)


# -- topics


def delete_topic(name: str) -> Step:
    """Delete the source topic or the dead-letter topic; nothing is published to a topic that is gone."""

    def begin(_stand: Stand, case: Case) -> None:
        if name == "topic":
            case.rate = 0.0
            time.sleep(2.0)
        case.admin.delete_topics([getattr(case, name)])

    return begin


def create_topic(name: str) -> Step:
    """Create it again."""

    def fix(_stand: Stand, case: Case) -> None:
        case.make_topic(getattr(case, name))
        case.rate = 1.0

    return fix


def refuse_dead_letters(_stand: Stand, case: Case) -> None:
    """Have the broker refuse the dead-letter topic's records, and send bad ones."""
    case.alter_topic(case.dead_letters, max_message_bytes="20")
    case.bad_every = 60


def accept_dead_letters(_stand: Stand, case: Case) -> None:
    """Accept them again."""
    case.alter_topic(case.dead_letters, max_message_bytes="1048588")
    case.bad_every = 0


def damage(_stand: Stand, case: Case) -> None:
    """Stop the worker, publish three batches to partition 0, damage the second on the disk, and start it again."""
    case.workers[-1].terminate()
    case.rate = 0.0
    time.sleep(2.0)
    case.admin.delete_topics([case.topic])
    case.make_topic(case.topic)
    for _ in range(3):
        publish(case.broker.bootstrap, case.topic, [_in_first(case) for _ in range(3)])
    path = case.broker.data / "records" / f"{case.topic}-0" / "00000000000000000000.log"
    start, batch = second_batch(path)
    overwrite(path, start, garbage(0)(batch))
    case.undo.callback(overwrite, path, start, batch)
    case.start()
    case.rate = 1.0


def _in_first(case: Case) -> Any:
    while (record := case.record()).partition != 0:
        pass
    return record


def open_transaction(_stand: Stand, case: Case) -> None:
    """A producer begins a transaction in partition 0 and does not end it; the alert takes longer than a run does."""
    producer = KafkaProducer(
        bootstrap_servers=case.broker.bootstrap, transactional_id=case.job, transaction_timeout_ms=900_000
    )
    producer.init_transactions()
    producer.begin_transaction()
    record = _in_first(case)
    producer.send(case.topic, key=record.key, value=record.value, partition=0).get(10)

    def abort() -> None:
        producer.abort_transaction()
        producer.close(timeout=2)

    case.undo.callback(abort)


def short_retention(_stand: Stand, case: Case) -> None:
    """A backlog that a slow worker needs an hour for, in a topic that keeps its records for 25 minutes: none is lost yet."""
    case.alter_topic(case.topic, retention_ms="1500000", segment_ms="20000")
    case.rate = 10.0
    case.restart(delivery__vectors_per_second=1)


def long_retention(_stand: Stand, case: Case) -> None:
    """Keep them for a week, and write them faster."""
    case.alter_topic(case.topic, retention_ms="604800000")
    case.rate = 1.0
    case.restart(delivery__vectors_per_second=2500)


def old_dead_letters(_stand: Stand, case: Case) -> None:
    """Write a dead letter to a topic that keeps it for twelve minutes."""
    case.alter_topic(case.dead_letters, retention_ms="720000")
    publish(case.broker.bootstrap, case.topic, [case.record().__class__(b"bad", b"{}", partition=0)])


def keep_dead_letters(_stand: Stand, case: Case) -> None:
    """Keep them for a month."""
    case.alter_topic(case.dead_letters, retention_ms="2592000000")


# -- the group and its processes


def stranger(_stand: Stand, case: Case) -> None:
    """A consumer of other software joins the group and takes partitions, of which it writes nothing."""
    stop = threading.Event()

    def consume() -> None:
        consumer = KafkaConsumer(
            case.topic,
            bootstrap_servers=case.broker.bootstrap,
            group_id=case.group,
            enable_auto_commit=False,
            partition_assignment_strategy=[CooperativeStickyAssignor],
        )
        while not stop.is_set():
            consumer.poll(timeout_ms=500)
        consumer.close()

    consuming = thread(consume, name="stranger")

    def leave() -> None:
        stop.set()
        join(consuming)

    case.undo.callback(leave)


def two_routes(_stand: Stand, case: Case) -> None:
    """Two workers of one group with a route each."""
    other = f"{case.topic}.other"
    case.make_topic(other)
    case.start()
    case.start(routes={other: case.index}, http__port=case.ports[1])
    case.targets(*case.ports)


def end_the_second(_stand: Stand, case: Case) -> None:
    """The one that reads the other topic is scaled away."""
    case.workers[1].terminate()
    case.targets(case.ports[0])
    publish(case.broker.bootstrap, f"{case.topic}.other", [case.record() for _ in range(100)])


def start_the_second(_stand: Stand, case: Case) -> None:
    """It is back."""
    case.start(routes={f"{case.topic}.other": case.index}, http__port=case.ports[1])
    case.targets(*case.ports)


def kill_worker(_stand: Stand, case: Case) -> None:
    """SIGKILL, and nothing starts it again."""
    case.workers[-1].kill()


def killed_again_and_again(_stand: Stand, case: Case) -> None:
    """The kernel ends it a minute after each start."""
    case.workers[-1].kill()
    case.supervise(kill_every_seconds=60.0)


def stop_killing(_stand: Stand, case: Case) -> None:
    """It stays."""
    for supervised in case.supervised:
        supervised.stop()
    case.supervised.clear()
    case.start()


def freeze(_stand: Stand, case: Case) -> None:
    """SIGSTOP."""
    case.workers[-1].send_signal(signal.SIGSTOP)


def thaw(_stand: Stand, case: Case) -> None:
    """SIGCONT."""
    case.workers[-1].send_signal(signal.SIGCONT)


def fence(_stand: Stand, case: Case) -> None:
    """Two processes with one group_instance_id, each started again when it ends."""
    case.workers[-1].terminate()
    for port in case.ports:
        case.supervise(kafka__group_instance_id="same", http__port=port)
    case.targets(*case.ports)


def one_of_them(stand: Stand, case: Case) -> None:
    """Only one is left."""
    case.targets(case.ports[0])
    stop_killing(stand, case)


def wrong_settings(_stand: Stand, case: Case) -> None:
    """A deployment with a setting that is wrong: each start ends with 78."""
    case.workers[-1].terminate()
    case.supervise(batch__max_records="many")


def never_there(_stand: Stand, case: Case) -> None:
    """The target is known; the process never comes as far as its port."""


# -- brokers


def start_without_broker(_stand: Stand, case: Case) -> None:
    """Start a worker behind a proxy that refuses, as a broker does that is away."""
    proxy = Proxy(case.broker.port)
    case.closing.append(proxy.close)
    case.overrides["kafka__bootstrap_servers"] = f"127.0.0.1:{proxy.port}"
    case.undo.enter_context(proxy.refusing())
    case.start()


def stop_alone(stand: Stand, _case: Case) -> None:
    """Stop the broker."""
    stand.alone.stop()


def restart_alone(stand: Stand, _case: Case) -> None:
    """Start it again."""
    stand.alone.restart()


def kill_second(stand: Stand, _case: Case) -> None:
    """Kill the second node, once for all that need it."""
    if stand.nodes[1].pid is not None:
        stand.nodes[1].kill()


def restart_second(stand: Stand, _case: Case) -> None:
    """Start it again, once."""
    if stand.nodes[1].pid is None:
        stand.nodes[1].restart()


# -- the machine


def in_container(_stand: Stand, case: Case) -> None:
    """Start a worker that sees a control group of our making, with plenty of memory."""
    folder = case.folder / case.job
    (folder / "cgroup").mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(
        "import pathlib\n"
        "try:\n"
        "    from worker.telemetry import container\n"
        f"    container.read_memory.__defaults__ = (pathlib.Path({str(folder / 'cgroup')!r}), pathlib.Path('/nowhere'))\n"
        "except ImportError:\n"
        "    pass\n"
    )
    case.environment["PYTHONPATH"] = f"{folder}:{ROOT}"
    _use_memory(case, 200)
    case.start()


def _use_memory(case: Case, megabytes: int) -> None:
    folder = case.folder / case.job / "cgroup"
    (folder / "memory.max").write_text(f"{1024 << 20}\n")
    (folder / "memory.stat").write_text("inactive_file 0\n")
    (folder / "memory.current").write_text(f"{megabytes << 20}\n")


def memory(megabytes: int) -> Step:
    """Let so much of the gigabyte be used."""
    return lambda _stand, case: _use_memory(case, megabytes)


def rate(records: float, **overrides: object) -> Step:
    """Publish so many records a second, and restart with settings if there are any."""

    def begin(_stand: Stand, case: Case) -> None:
        case.rate = records
        if overrides:
            case.restart(**overrides)

    return begin


def old_backlog(_stand: Stand, case: Case) -> None:
    """A first start behind a backlog of records that are hours old."""
    old = round((time.time() - 7200) * 1000)
    case.timestamp_ms = lambda: old
    case.rate = 200.0
    time.sleep(5.0)
    case.timestamp_ms, case.rate = None, 1.0
    case.start()


TROUBLES: Final[tuple[Trouble, ...]] = (
    Trouble("service answers 503", "NothingAccepted", fault(status=503), no_fault),
    Trouble("maintenance page with 200", "NothingAccepted", fault(status=200, headers={"Content-Type": "text/html"}, content=PAGE), no_fault),
    Trouble("service throttles (429)", "Throttled", fault(status=429, probability=0.8), no_fault),
    Trouble("service is slow (20 s)", "LatencyBudget", fault(latency_seconds=20.0), no_fault),
    Trouble("credentials refused at start", "BlockedCredentials", start_with_wrong_credentials, right_credentials, nothing),
    Trouble("credentials refused while running", "BlockedCredentials", wrong_credentials, right_credentials, with_right_credentials),
    Trouble("index deleted", "BlockedTarget", delete_index, create_index),
    Trouble("index of another dimension", "BlockedTarget", with_dimension(8), with_dimension(4)),
    Trouble("redirect (302)", "BlockedTarget", fault(status=302, headers={"Location": "https://login.example/"}), no_fault),
    Trouble("signature refused with 400", "BlockedCredentials", fault(status=400, code="InvalidArgument", ec="0002-00000063"), no_fault),
    Trouble("bucket gone", "BlockedTarget", fault(status=404, code="NoSuchBucket"), no_fault),
    Trouble("bad records above the limit", "BlockedDeadLetterLimit|DeadLetterLimitNear", bad(3), accept_bad),
    Trouble("single bad records", "", rare_bad(150), rare_bad(0)),
    Trouble("dead-letter topic deleted", "TopicMissing|BlockedDeadLetterUnavailable", delete_topic("dead_letters"), create_topic("dead_letters")),
    Trouble("dead letters refused", "BlockedDeadLetterUnavailable|DeadLettersRefused", refuse_dead_letters, accept_dead_letters),
    Trouble("source topic deleted", "TopicMissing|BlockedPartitionUnreadable", delete_topic("topic"), create_topic("topic")),
    Trouble("a stranger in the group", "UnassignedPartitions", stranger, undo),
    Trouble("a route without a member", "UnassignedPartitions", end_the_second, start_the_second, two_routes, workers=2),
    Trouble("damaged record batch", "BlockedPartitionUnreadable", damage, undo),
    Trouble("coordinator away", "CoordinatorUnavailable", kill_second, restart_second, broker="second"),
    Trouble("partition without a leader", "LeaderlessPartitions|BlockedPartitionUnreadable", kill_second, restart_second, placed=True),
    Trouble("broker away at start", "PollingStopped", start_without_broker, undo, nothing),
    Trouble("broker away while running", "PollingStopped|CoordinatorUnavailable", stop_alone, restart_alone, broker="alone"),
    Trouble("transaction that hangs", "TransactionOpen", open_transaction, undo),
    Trouble("retention overtakes the backlog", "RetentionNear", short_retention, long_retention),
    Trouble("lag from a rate limit", "LatencyBudget|LagGrowing|CatchUpSlow", rate(20.0, delivery__vectors_per_second=5), rate(1.0, delivery__vectors_per_second=2500)),
    Trouble("killed (SIGKILL)", "WorkerDown", kill_worker, one_worker),
    Trouble("killed again and again (137)", "RestartLoop", killed_again_and_again, stop_killing),
    Trouble("frozen (SIGSTOP)", "WorkerDown", freeze, thaw),
    Trouble("fenced in turn", "MemberFenced|RestartLoop", fence, one_of_them, workers=2),
    Trouble("wrong settings (78)", "WorkerDown|RestartLoop", wrong_settings, stop_killing),
    Trouble("never as far as HTTP", "WorkerDown", never_there, one_worker, nothing),
    Trouble("one record gets 500", "", poisoned, not_poisoned),
    Trouble("all records get 500", "NothingAccepted|BlockedRecordStuck", fault(operation="PutVectors", status=500), no_fault),
    Trouble("memory near the limit", "MemoryNearLimit", memory(1000), memory(200), in_container),
    Trouble("credentials about to expire", "CredentialsExpiring", expiring_credentials, lasting_credentials),
    Trouble("certificate about to expire", "CertificateExpiring", expiring_certificate, no_certificate),
    Trouble("dead letters about to expire", "DeadLettersExpiring", old_dead_letters, keep_dead_letters),
    Trouble("first start behind a backlog", "", old_backlog, nothing, nothing),
)  # fmt: skip
"""In the order of the table, in which they begin: what publishes by itself comes before the node goes away."""
