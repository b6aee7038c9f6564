"""`produce`: files into judged records, in their order, and how far it came."""

import gzip
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from kafka import errors as kafka_errors
from kafka.partitioner.default import murmur2

from tests.support.app import good, settings
from tests.support.routed import TENANTS
from tests.unit.samples import TARGET, FakeClock, line
from worker.app.routers import router_of
from worker.errors import FatalError, Reason, RecordError
from worker.records.decode import Decoder, Put
from worker.records.several import Cutter
from worker.records.target import Target
from worker.settings.tables import DeadLetter, Kafka, Route
from worker.tools.produce import publish
from worker.tools.produce.forms import check_form, default_form, written
from worker.tools.produce.publish import MOST_WAITING_BYTES, Bad, Judge, Message, Publisher
from worker.tools.produce.rows import Row

# -- forms


def test_long_vectors_are_published_as_base64_unless_the_topic_is_of_messagepack() -> None:
    assert [default_form(3, "auto"), default_form(1536, "auto"), default_form(1536, "msgpack")] == [
        "json",
        "base64",
        "msgpack",
    ]


@pytest.mark.parametrize("source", ["json", "base64"])
@pytest.mark.parametrize("form", ["json", "base64", "msgpack"])
def test_a_form_changes_how_a_record_is_written_and_not_what_it_says(source: str, form: str) -> None:
    vector = [0.1, -2.5e-8, 3.0]
    value = written(line("a", vector, metadata={"title": "ä"}), source)
    decoder = Decoder(TARGET, max_fragment_bytes=10_000)
    assert decoder.decode(b"a", written(value, form), ()) == decoder.decode(
        b"a", line("a", vector, metadata={"title": "ä"}), ()
    )
    assert (written(value, form) is value) == (source == form)


def test_messagepack_holds_raw_bytes() -> None:
    found = msgspec.msgpack.decode(written(line("a", [1.0, 2.0, 3.0]), "msgpack"))
    assert found["data"]["float32"] == np.array([1, 2, 3], "<f4").tobytes()


# -- publishing


class FakeFuture:
    """The producer's answer for one message."""

    def __init__(self, outcome: Any) -> None:
        self.is_done = True
        self.value = outcome

    def get(self, timeout: float) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def succeeded(self) -> bool:
        return not isinstance(self.value, Exception)


class Place:
    """Where a message came to be."""

    def __init__(self, partition: int) -> None:
        self.partition = partition


class FakeSender:
    """Takes messages; `failures` are raised by the future of the message with that number, from 1."""

    def __init__(self, failures: dict[int, Exception] | None = None) -> None:
        self.sent: list[Message] = []
        self.failures = failures or {}

    def send(self, topic: str, *, key: bytes, value: bytes | None) -> FakeFuture:
        self.sent.append(Message(key, value))
        return FakeFuture(self.failures.get(len(self.sent), Place(murmur2(key) % 2)))


class Bench:
    """A publisher on fakes."""

    def __init__(self, sender: Any = None, *, skip: bool = False, rate: float = 0.0, first: int = 1) -> None:
        self.sender = sender or FakeSender()
        self.bad: list[Bad] = []
        self.clock = FakeClock()
        self.stopping = False
        self.skip = skip
        decoders = [Decoder(TARGET, max_fragment_bytes=10_000, tombstones="delete") for _ in range(2)]
        judge = Judge(*decoders, form="json", key_format="utf8")
        self.publisher = Publisher(
            self.sender,
            "vectors",
            judge,
            first=first,
            rate=rate,
            is_stopping=lambda: self.stopping,
            wait=self.clock.pass_by,
            on_bad=self.on_bad,
            on_sent=lambda: None,
            clock=self.clock,
        )

    def on_bad(self, bad: Bad) -> None:
        self.bad.append(bad)
        if not self.skip:
            raise FatalError("bad")

    def run(self, *values: bytes | None) -> None:
        first = self.publisher.resume_at
        self.publisher.run(Row(number, value, "gone") for number, value in enumerate(values, start=first))

    @property
    def keys(self) -> list[bytes]:
        return [message.key for message in self.sender.sent]


def test_records_are_sent_in_order_under_the_vectors_key() -> None:
    bench = Bench()
    bench.run(line("b"), line("a"), line("b"), None)
    assert bench.keys == [b"b", b"a", b"b", b"gone"]
    assert (bench.publisher.acknowledged, bench.publisher.resume_at) == (4, 5)
    assert bench.sender.sent[-1].value is None


def test_the_first_bad_row_ends_it_and_what_came_before_is_counted() -> None:
    bench = Bench()
    with pytest.raises(FatalError, match="bad"):
        bench.run(line("a"), line("b", [1.0]), line("c"))
    assert (bench.keys, bench.publisher.acknowledged, bench.publisher.resume_at) == ([b"a"], 1, 2)
    assert (bench.bad[0].row.number, bench.bad[0].error.reason.value) == (2, "dimension")


def test_bad_rows_are_passed_over_and_counted_by_reason() -> None:
    bench = Bench(skip=True)
    bench.run(line("a"), line("b", [1.0]), b"{", line("c"), b"[]")
    assert (bench.keys, dict(bench.publisher.bad)) == ([b"a", b"c"], {"dimension": 1, "malformed": 2})
    assert bench.publisher.resume_at == 6


class LateSender(FakeSender):
    """Answers only when it is asked for."""

    def send(self, topic: str, *, key: bytes, value: bytes | None) -> FakeFuture:
        future = super().send(topic, key=key, value=value)
        future.is_done = False
        return future


@pytest.mark.parametrize("sender", [FakeSender, LateSender])
def test_a_record_that_the_broker_refuses_is_where_to_continue_and_the_rest_is_counted(sender: Any) -> None:
    bench = Bench(sender({2: kafka_errors.TopicAuthorizationFailedError("vectors")}))
    lines = [Row(9, line("a")), Row(10, line("b")), Row(11, line("c")), Row(12, line("d"))]
    with pytest.raises(FatalError, match="kafka did not accept the record of line 10: TopicAuthorizationFailedError"):
        bench.publisher.run(lines)
    acknowledged = {FakeSender: 1, LateSender: 3}[sender]  # of those that were sent before the failure was seen
    assert (bench.publisher.resume_at, bench.publisher.acknowledged) == (10, acknowledged)


def test_a_signal_ends_it_between_two_records() -> None:
    bench = Bench(first=5)

    def stop_after_two() -> Iterator[Row]:
        yield Row(5, line("a"))
        yield Row(6, line("b"))
        bench.stopping = True
        yield Row(7, line("c"))

    bench.publisher.run(stop_after_two())
    assert (bench.keys, bench.publisher.resume_at) == ([b"a", b"b"], 7)


def test_the_rate_is_kept_and_a_pause_is_not_caught_up_on() -> None:
    bench = Bench(rate=10.0)
    began = bench.clock()
    bench.run(*[line("a")] * 21)
    assert bench.clock() - began == pytest.approx(2.0)
    bench.clock.pass_by(3600)
    before = bench.clock()
    bench.run(*[line("a")] * 30)
    assert bench.clock() - before == pytest.approx(1.9)  # of 3 seconds; one is caught up on


def test_what_waits_for_the_broker_is_bounded_in_bytes() -> None:
    class Slow(FakeSender):
        most = 0

        def send(self, topic: str, *, key: bytes, value: bytes | None) -> FakeFuture:
            future = super().send(topic, key=key, value=value)
            future.is_done = False
            waiting = bench.publisher._waiting_bytes + len(key) + len(value or b"")
            Slow.most = max(Slow.most, waiting)
            return future

    bench = Bench(Slow())
    value = line("a", padding="x" * 3_000_000)
    bench.run(*[value] * 40)
    assert bench.publisher.acknowledged == 40
    assert MOST_WAITING_BYTES - len(value) < Slow.most <= MOST_WAITING_BYTES + len(value)


def test_a_key_in_json_is_written_with_its_quotes() -> None:
    decoder = Decoder(TARGET, max_fragment_bytes=10_000, key_format="json")
    message = Judge(decoder, decoder, form="json", key_format="json").message(Row(1, line("ä")))
    assert message.key == '"ä"'.encode()


def test_a_record_that_the_topics_format_does_not_take_is_bad() -> None:
    of_topic = Decoder(TARGET, max_fragment_bytes=10_000, format="msgpack")
    judge = Judge(Decoder(TARGET, max_fragment_bytes=10_000), of_topic, form="base64", key_format="utf8")
    with pytest.raises(RecordError):
        judge.message(Row(1, line("a")))


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_partitioner_is_that_of_java(key: bytes, hashed: int) -> None:
    """The values are those of Apache Kafka's own test of `Utils.murmur2`."""
    assert murmur2(key) == hashed % 2**32


# -- what a form keeps


@pytest.mark.parametrize("form", ["base64", "msgpack"])
def test_numbers_of_the_metadata_keep_their_digits(form: str) -> None:
    value = b'{"key": "a", "data": {"float32": [1, 2, 3]}, "metadata": {"n": 123456789012345678901234567890, "x": 1e2}}'
    decoders = [Decoder(TARGET, max_fragment_bytes=10_000, metadata_values="stringify") for _ in range(2)]
    message = Judge(*decoders, form=form, key_format="utf8").message(Row(1, value))
    assert decoders[0].decode(message.key, message.value, ()) == decoders[0].decode(b"a", value, ())
    assert (message.value == value) == (form == "msgpack")


def test_what_is_published_unchanged_is_judged_by_the_topics_format_too() -> None:
    of_topic = Decoder(TARGET, max_fragment_bytes=10_000, format="msgpack")
    judge = Judge(Decoder(TARGET, max_fragment_bytes=10_000), of_topic, form="json", key_format="utf8")
    with pytest.raises(RecordError):
        judge.message(Row(1, line("a")))


@pytest.mark.parametrize(("form", "records_format"), [("json", "msgpack"), ("msgpack", "json")])
def test_a_form_that_the_worker_would_refuse_is_refused_at_once(form: str, records_format: str) -> None:
    with pytest.raises(FatalError, match="leave out --format"):
        check_form(form, records_format)
    check_form(form, "auto")


HOSTILE = {
    "malformed": [
        "\ufeff".encode(), b"\xff\xfe{\x00", line("a").decode().encode("utf-16"),  b"[]", b"null", b'"x"',
        b'{"key": "a", "data": {"float32": [1, 2, NaN]}}', b'{"key": "a", "data": {"float32": [1, 2, "3"]}}',
        b'{"key": "\\ud83d", "data": {"float32": [1, 2, 3]}}', b'{"key": 5, "data": {"float32": [1, 2, 3]}}',
        b'{"key": "a"}', b"[" * 100_000, gzip.compress(b"x", mtime=0), b'{"key": "a", "data": {"float32": "AAA"}}',
    ],
    "not_finite": [b'{"key": "a", "data": {"float32": [1, 2, 1e39]}}'],
    "dimension": [b'{"key": "a", "data": {"float32": []}}'],
    "key": [b'{"data": {"float32": [1, 2, 3]}}', line(""), line("x" * 1025)],
    "zero_vector": [b'{"key": "a", "data": {"float32": [0, -0.0, 1e-50]}}'],
    "metadata": [line("a", metadata=5), line("a", metadata={"text": "x" * 50_000})],
    "too_large": [],
}  # fmt: skip


@pytest.mark.parametrize("form", ["json", "base64", "msgpack"])
@pytest.mark.parametrize(("reason", "value"), [(reason, value) for reason, some in HOSTILE.items() for value in some])
def test_hostile_lines_are_bad_with_the_workers_reason(reason: str, value: bytes, form: str) -> None:
    decoders = [Decoder(TARGET, max_fragment_bytes=100_000) for _ in range(2)]
    with pytest.raises(RecordError) as raised:
        Judge(*decoders, form=form, key_format="utf8").message(Row(1, value))
    assert raised.value.reason.value == reason


@pytest.mark.parametrize("form", ["json", "base64", "msgpack"])
@pytest.mark.parametrize(
    "value",
    [
        "\ufeff".encode() + line("a"),
        b' {"key": "no", "key": "a", "data": {"float32": [9, 9, 9], "float32": [1, 2, 3]}, "data": {"float32": [-0.0, 2, -0]}} ',
        line("a", junk="x" * 100, more=[{}, None, 1e300]),
        b'{"key": "a", "data": {"float32": [1, 2, 3]}, "junk": "\\ud83d"}',
        line("\x00\u2028\U0001f600"),
    ],
)
def test_odd_records_say_the_same_in_every_form(value: bytes, form: str) -> None:
    decoders = [Decoder(TARGET, max_fragment_bytes=100_000) for _ in range(2)]
    message = Judge(*decoders, form=form, key_format="utf8").message(Row(1, value))
    before, after = decoders[0].decode(None, value, ()), decoders[1].decode(message.key, message.value, ())
    assert isinstance(before, Put)
    assert isinstance(after, Put)
    assert (after.fragment, after.key) == (before.fragment, before.key)


def test_a_record_larger_than_the_topic_takes_says_what_to_do() -> None:
    bench = Bench(FakeSender({1: kafka_errors.MessageSizeTooLargeError()}))
    with pytest.raises(FatalError, match=r"record of line 1: .* raise max.message.bytes of the topic"):
        bench.run(line("a"))
    assert bench.publisher.resume_at == 1


def test_headers_are_judged_and_sent_with_each_record() -> None:
    sent: list[tuple[bytes, Any]] = []

    class WithHeaders(FakeSender):
        def send(self, topic: str, *, key: bytes, value: bytes | None, headers: Any = None) -> FakeFuture:
            sent.append((key, headers))
            return super().send(topic, key=key, value=value)

    routers = [router_of(TENANTS, settings(routes=(TENANTS,))) for _ in range(2)]
    for router in routers:
        for name in TENANTS.index_names:
            router.add(Target(name, 3, "cosine"))
    bench = Bench(WithHeaders(), skip=True)
    bench.publisher._judge = Judge(*routers, form="json", key_format="utf8", headers=[("tenant", b"acme")])
    bench.run(good("a"))
    bench.publisher._judge = Judge(*routers, form="json", key_format="utf8")
    bench.run(good("b"))
    assert sent == [(b"a", [("tenant", b"acme")])]
    assert [bad.error.reason for bad in bench.bad] == [Reason.NO_ROUTE]


# -- rows with several records


def several_judge(cutter: Cutter | None) -> Judge:
    decoder = Decoder(TARGET, max_fragment_bytes=10_000)
    return Judge(decoder, decoder, form="base64", key_format="utf8", cutter=cutter)


def test_a_row_with_several_records_is_published_as_it_is_under_the_key_of_its_first() -> None:
    value = b"[" + line("a") + b", " + line("b") + b"]"
    assert several_judge(Cutter("auto")).message(Row(1, value)) == Message(b"a", value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"[" + line("a") + b"," + line("b", [1.0]) + b"]", "record 1 of it: data.float32 has 1 numbers"),
        (b"[]", "there are no records in it"),
        (b"[5", "no whole JSON with records"),
    ],
)
def test_a_row_with_a_bad_record_among_several_is_bad(value: bytes, told: str) -> None:
    with pytest.raises(RecordError, match=told):
        several_judge(Cutter("auto")).message(Row(1, value))


def test_a_row_that_is_one_record_is_published_as_ever_where_messages_may_have_several() -> None:
    row = Row(1, line("a"))
    assert several_judge(Cutter("auto")).message(row) == several_judge(None).message(row)


def test_where_a_path_leads_to_the_records_a_row_without_it_is_bad() -> None:
    with pytest.raises(RecordError, match="there is no rows in the JSON"):
        several_judge(Cutter("auto", "rows")).message(Row(1, line("a")))


def of_shape(records: dict[str, Any]) -> Judge:
    """Return what judges the rows of a route whose records have a shape of their own, published as they are."""
    route = Route(topic=TENANTS.topic, index="docs", records=records)
    routers = [router_of(route, settings(routes=(route,))) for _ in range(2)]
    for router in routers:
        router.add(Target("docs", 3, "cosine"))
    return Judge(*routers, form="", key_format="utf8")


def test_records_of_another_shape_are_published_as_the_file_has_them() -> None:
    judge = of_shape({"envelope": "debezium", "fields": {"key": "id", "vector": "v"}})
    put = b'{"op": "c", "after": {"id": "a", "v": "AACAPwAAAEAAAEBA"}}'
    gone = b'{"op": "d", "before": {"id": "a"}}'
    assert [judge.message(Row(1, value)) for value in (put, gone)] == [Message(b"a", put), Message(b"a", gone)]


@pytest.mark.parametrize("value", [b'{"ts_ms": 1}', b'{"op": "t"}', b'{"op": "c", "after": {"id": "a"}}'])
def test_what_the_worker_would_not_write_of_another_shape_is_not_published(value: bytes) -> None:
    with pytest.raises(RecordError) as raised:
        of_shape({"envelope": "debezium", "fields": {"key": "id", "vector": "v"}}).message(Row(1, value))
    assert raised.value.reason is Reason.MALFORMED


# -- the producer


class FakeProducer:
    """A producer of a broker that answers the request for a producer id when it was looked at twice."""

    refusal: Exception | None = None
    made: list["FakeProducer"]
    DEFAULT_CONFIG: Mapping[str, Any] = {"max_in_flight_requests_per_connection": 5}

    def __init__(self, **config: Any) -> None:
        self.made.append(self)
        self.is_idempotent: bool = config["enable_idempotence"]
        self.in_flight: int = config["max_in_flight_requests_per_connection"]
        self.is_closed = False
        self.looks = 0
        if self.is_idempotent:
            self._transaction_manager = SimpleNamespace(has_producer_id=self._has_id, last_error=None)

    def _has_id(self) -> bool:
        self.looks += 1
        if self.looks > 2 and self.refusal is not None:
            self._transaction_manager.last_error = self.refusal
        return self.looks > 2 and self.refusal is None

    def close(self, timeout: float) -> None:
        assert timeout == 0
        self.is_closed = True


MakeProducer = Callable[[str, Exception | None], list[FakeProducer]]


@pytest.fixture
def make_producer(monkeypatch: pytest.MonkeyPatch) -> MakeProducer:
    """Make the producer of a command; returns each that was made on the way. Raises `FatalError`."""

    def make(idempotent: str, refusal: Exception | None) -> list[FakeProducer]:
        made: list[FakeProducer] = []
        monkeypatch.setattr(publish, "KafkaProducer", FakeProducer)
        monkeypatch.setattr(FakeProducer, "made", made, raising=False)
        monkeypatch.setattr(FakeProducer, "refusal", refusal)
        client = {"max_in_flight_requests_per_connection": 5}
        chosen = DeadLetter(idempotent=idempotent)  # type: ignore[arg-type]  # one of the setting's own
        wanted = settings(dead_letter=chosen, kafka=Kafka(client=client))
        assert publish.make_producer(wanted, compression=None, wait=lambda _: None) is made[-1]
        return made

    return make


NO_ID = kafka_errors.KafkaError("Unexpected error in InitProducerIdResponse: CLUSTER_AUTHORIZATION_FAILED")
NO_SUCH_REQUEST = kafka_errors.UnsupportedVersionError("InitProducerId")


@pytest.mark.parametrize("idempotent", ["auto", "true"])
def test_what_is_published_is_written_once_where_the_brokers_have_idempotent_producers(
    make_producer: MakeProducer, idempotent: str
) -> None:
    (producer,) = make_producer(idempotent, None)
    assert (producer.is_idempotent, producer.looks) == (True, 3)


@pytest.mark.parametrize("refusal", [NO_ID, NO_SUCH_REQUEST], ids=["refused", "unknown"])
def test_brokers_without_idempotent_producers_are_published_to_in_order_all_the_same(
    make_producer: MakeProducer, capsys: pytest.CaptureFixture[str], refusal: Exception
) -> None:
    first, second = make_producer("auto", refusal)
    assert (first.is_closed, second.is_idempotent, second.in_flight) == (True, False, 1)
    assert "the brokers accept no idempotent producer of this user" in capsys.readouterr().err


def test_where_idempotence_is_not_wanted_the_brokers_are_not_asked_for_it(
    make_producer: MakeProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    (producer,) = make_producer("false", NO_ID)
    assert (producer.is_idempotent, producer.looks, producer.in_flight) == (False, 0, 1)
    assert capsys.readouterr().err == ""


def test_where_idempotence_is_wanted_its_refusal_ends_the_command_with_the_setting(make_producer: MakeProducer) -> None:
    with pytest.raises(FatalError, match=r"grant WRITE on the topic, or set dead_letter\.idempotent to auto"):
        make_producer("true", NO_ID)


def test_another_fault_of_the_producer_does_not_end_idempotence(make_producer: MakeProducer) -> None:
    with pytest.raises(FatalError, match="a fault"):
        make_producer("auto", kafka_errors.KafkaError("a fault"))


def test_brokers_that_do_not_answer_are_seen_by_what_is_sent(
    make_producer: MakeProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeProducer, "_has_id", lambda _: False)
    (producer,) = make_producer("auto", None)
    assert producer.is_idempotent
