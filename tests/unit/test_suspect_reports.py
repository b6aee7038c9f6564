"""Suspect records: counted by topic and cause, and one of each is logged from time to time."""

import logging

import pytest

from tests.support.app import TOPIC
from tests.support.fakes import FakeMessage
from tests.support.routed import TENANTS, RoutedApp
from tests.unit.test_intake import Bench, message
from worker.consumer.repeats import REPEAT_SECONDS
from worker.errors import Reason
from worker.ports import Polled
from worker.settings import tables
from worker.telemetry.metrics import Metrics

DENORMAL = b'{"key":"%d","data":{"float32":[1e-40,1e-40,1]}}'
SENTENCE = "2 of 3 numbers are denormal, as when bytes of another type or in another order are read as float32"


def counted(metrics: Metrics, cause: str) -> float:
    labels = {"topic": TOPIC, "cause": cause}
    return metrics.registry.get_sample_value("oss_vectors_suspect_vectors_total", labels) or 0.0


def suspect(offset: int) -> FakeMessage:
    return message(offset, value=DENORMAL % offset)


def quoted(offset: int, value: bytes | None = b'{"data":{"float32":[1,2,3]}}') -> FakeMessage:
    return FakeMessage(offset, value, b'"%d"' % offset)


def test_suspects_are_written_and_counted() -> None:
    bench = Bench(records=tables.Records(tombstones="delete"))
    written, letters = bench.take_in([message(0), suspect(1), quoted(2), suspect(3), quoted(4, value=None)])
    assert (written, letters) == (["0", "1", '"2"', "3", '"4"'], [])
    assert (
        counted(bench.metrics, "denormal"),
        counted(bench.metrics, "quoted_key"),
        counted(bench.metrics, "norm"),
    ) == (2, 2, 0)


def test_suspects_become_dead_letters_where_that_is_set_and_are_counted() -> None:
    bench = Bench(records=tables.Records(tombstones="delete", suspect="dead-letter"))
    written, letters = bench.take_in([message(0), suspect(1), quoted(2), quoted(3, value=None)])
    assert (written, [(offset, reason.value) for offset, reason, _ in letters]) == (
        ["0"],
        [(1, "suspect"), (2, "suspect"), (3, "suspect")],
    )
    assert letters[0][2] == f'{SENTENCE} (records.suspect = "dead-letter"; "write" would write it)'
    assert (counted(bench.metrics, "denormal"), counted(bench.metrics, "quoted_key")) == (1, 2)


@pytest.mark.parametrize(
    ("setting", "letters"), [("write", []), ("dead-letter", [(0, Reason.SUSPECT), (1, Reason.SUSPECT)])]
)
def test_suspects_of_a_topic_with_several_indexes_are_counted_too(
    setting: str, letters: list[tuple[int, Reason]]
) -> None:
    app = RoutedApp(TENANTS, records=tables.Records(suspect=setting, tombstones="delete"))  # type: ignore[arg-type]  # it is one of them
    app.find()
    app.turn(2)
    headers = (("tenant", b"acme"),)
    app.append([{"value": DENORMAL % 0, "headers": headers}, {"value": None, "key": b'"1"', "headers": headers}])
    app.turn(2)
    assert [(one.offset, one.reason) for one in app.dead_letters.kept] == letters
    assert (counted(app.metrics, "denormal"), counted(app.metrics, "quoted_key")) == (1, 1)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[object, ...]]:
    """Return the lines about suspects since the last call."""
    lines = [record.__dict__ for record in caplog.records if record.getMessage() == "a record is suspect"]
    caplog.clear()
    return [
        tuple(line[name] for name in ("topic", "partition", "offset", "cause", "error", "left_out")) for line in lines
    ]


def test_one_suspect_of_each_cause_is_logged_with_its_place_every_half_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    bench = Bench()

    def take_in(*messages: FakeMessage) -> None:
        bench.intake.take_in([Polled(bench.assignment(), messages)])

    take_in(message(0), suspect(1), suspect(2), quoted(3))
    lines = logged(caplog)
    assert [line[:4] for line in lines] == [(TOPIC, 0, 1, "denormal"), (TOPIC, 0, 3, "quoted_key")]
    assert lines[0][4:] == (SENTENCE, 0)
    take_in(suspect(4))
    assert logged(caplog) == []
    bench.clock.advance(REPEAT_SECONDS)
    take_in(suspect(5))
    assert logged(caplog) == [(TOPIC, 0, 5, "denormal", SENTENCE, 1)]
