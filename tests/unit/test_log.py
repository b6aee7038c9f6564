"""Lines for machines and for people, and the client's errors folded."""

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from worker import log
from worker.config import Log


def record(message: str = "group joined", name: str = "worker.loop", level: int = logging.INFO, **extra: Any) -> Any:
    made = logging.LogRecord(name, level, "source.py", 7, message, None, None)
    made.created = 1_700_000_000.1234
    made.__dict__.update(extra)
    return made


@pytest.fixture
def _loggers() -> Iterator[None]:
    """Set the loggers back afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "kafka", "urllib3", "alibabacloud_oss_v2")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_a_json_line_has_time_level_logger_message_and_the_fields() -> None:
    line = log.JsonFormatter().format(record(partitions=3, topic="vectors"))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "info",
        "logger": "worker.loop",
        "message": "group joined",
        "partitions": 3,
        "topic": "vectors",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [(ValueError("x"), "x"), ({(1, 2): 3}, {"(1, 2)": 3}), ({1}, [1]), (float("nan"), None), ("a\nb", "a\nb")],
    ids=["an error", "a tuple as a key", "a set", "not a number", "a line break"],
)  # fmt: skip
def test_a_json_line_takes_any_value_and_stays_one_line(value: object, expected: object) -> None:
    line = log.JsonFormatter().format(record(value=value))
    assert (json.loads(line)["value"], "\n" in line) == (expected, False)


def test_an_exception_is_told_in_both_forms() -> None:
    error = ValueError("broken")
    made = record(exc_info=(ValueError, error, None))
    assert "ValueError: broken" in json.loads(log.JsonFormatter().format(made))["exception"]
    assert log.TextFormatter().format(made).endswith("ValueError: broken")


def test_a_text_line_has_the_fields_behind_the_message() -> None:
    assert log.TextFormatter().format(record(partitions=3))[8:] == " info    group joined partitions=3"


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("text", False), ("auto", True)])
@pytest.mark.usefixtures("_loggers")
def test_lines_go_to_stderr_in_the_form_that_is_set(
    capsys: pytest.CaptureFixture[str], form: Any, is_json: bool
) -> None:
    log.configure(Log(format=form, level="info"))
    logging.getLogger("worker").debug("not shown")
    logging.getLogger("worker").info("shown", extra={"n": 1})
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines), lines[0].startswith("{")) == (1, is_json)


@pytest.mark.usefixtures("_loggers")
def test_on_a_terminal_auto_is_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    log.configure(Log())
    logging.getLogger("worker").info("shown")
    assert capsys.readouterr().err.endswith(" info    shown\n")


@pytest.mark.parametrize(("level", "shown"), [("info", ["warning"]), ("debug", ["info", "warning"])])
@pytest.mark.usefixtures("_loggers")
def test_the_clients_chatter_is_shown_under_debug_alone(
    capsys: pytest.CaptureFixture[str], level: Any, shown: list[str]
) -> None:
    log.configure(Log(level=level, format="json"))
    logging.getLogger("kafka.conn").info("connected")
    logging.getLogger("kafka.conn").warning("gone")
    assert [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()] == shown


def test_a_message_of_the_same_place_is_shown_once_an_interval_and_the_left_out_are_counted() -> None:
    fold = log.Fold(interval=30.0, prefix="kafka")
    seen = []
    for second in (0, 1, 29, 30, 59, 60, 200):
        each = record("gone", "kafka.conn", logging.ERROR, created=float(second))
        seen.append((fold.filter(each), getattr(each, "left_out", 0)))
    assert seen == [(True, 0), (False, 0), (False, 0), (True, 2), (False, 0), (True, 1), (True, 0)]


@pytest.mark.parametrize(
    "changed",
    [{"name": "worker.loop"}, {"level": logging.INFO}, {"lineno": 8}, {"pathname": "other.py"}],
    ids=["another logger", "no warning", "another line", "another file"],
)
def test_a_message_of_another_kind_is_not_folded(changed: dict[str, Any]) -> None:
    fold = log.Fold(interval=30.0, prefix="kafka")
    fold.filter(record("gone", "kafka.conn", logging.ERROR))
    given: dict[str, Any] = {"name": "kafka.conn", "level": logging.ERROR} | changed
    assert fold.filter(record("gone", **given))
