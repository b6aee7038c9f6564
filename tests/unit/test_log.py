"""Lines for machines and for people, and the client's errors folded."""

import ast
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import worker
from worker import redaction
from worker.settings.tables import Log
from worker.telemetry import log


def record(message: str = "group joined", name: str = "worker.loop", level: int = logging.INFO, **extra: Any) -> Any:
    made = logging.LogRecord(name, level, "source.py", 7, message, None, None)
    made.created = 1_700_000_000.1234
    made.__dict__.update(extra)
    return made


def with_fields(given: dict[str, Any]) -> Any:
    """Return a record with these fields, whatever their names."""
    made = record()
    made.__dict__.update(given)
    return made


@pytest.fixture
def _loggers() -> Iterator[None]:
    """Set the loggers back afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "worker", "kafka", "urllib3", "alibabacloud_oss_v2")]
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


@pytest.mark.usefixtures("_loggers")
def test_what_the_client_logs_of_a_missing_topic_is_left_to_the_worker(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Log(format="json"))
    logging.getLogger("kafka.cluster").error("Topic %s not found in cluster metadata", "vectors.dlq")
    logging.getLogger("kafka.cluster").error("Metadata refresh: failed %s", "of another cause")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "Metadata refresh: failed of another cause"


def test_a_message_of_the_same_place_is_shown_once_an_interval_and_the_left_out_are_counted() -> None:
    seconds = (0, 1, 29, 30, 59, 60, 200)
    clock = iter(map(float, seconds))
    fold = log.Fold(interval=30.0, prefix="kafka", clock=lambda: next(clock))
    seen = []
    for second in seconds:
        # The wall clock is set back by a day, and runs backwards.
        each = record("gone", "kafka.conn", logging.ERROR, created=86_400.0 - second)
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


# -- what a message, a field or an error may hold


HOSTILE = [
    "half an emoji \ud83d",
    "a\nforged line",
    "a\r\x1b[31mred\x07\x00\x7f",
    "turned \u202e round",
    "\u2028\u2029\x85\x9b\ufeff",
    "x" * 1_000_000,
    "\ud800" * 1_000_000,
]


def lines_of(formatter: logging.Formatter, made: Any) -> list[str]:
    """Return a record as the lines that a terminal or a collector sees."""
    text = formatter.format(made)
    text.encode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ufeff\ud800-\udfff]", text)
    return text.split("\n")


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("form", [log.JsonFormatter, log.TextFormatter])
@pytest.mark.parametrize(
    "make",
    [
        record,
        lambda text: record(name=text),
        lambda text: record(value=text),
        lambda text: with_fields({text[:300]: 1}),
        lambda text: record(value=[{text: [text]}]),
        lambda text: record(value=ValueError(text)),
        lambda text: record(value={text}),
    ],
    ids=["message", "logger", "value", "name", "nested", "error", "set"],
)
def test_whatever_it_holds_one_line_comes_out(form: Any, make: Any, hostile: str) -> None:
    (line,) = lines_of(form(), make(hostile))
    assert len(line) < 6 * log.FIELD_CHARACTERS + 200
    if form is log.JsonFormatter:
        json.loads(line)


def raised(error: BaseException, cause: BaseException | None = None) -> Any:
    """Return what logging keeps of an error that was raised."""
    try:
        raise error from cause  # noqa: TRY301 - what is raised here is what is looked at
    except BaseException:
        return sys.exc_info()


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_an_errors_text_adds_no_line_to_those_of_its_traceback(hostile: str) -> None:
    plain = lines_of(log.TextFormatter(), record(exc_info=raised(ValueError("plain"), KeyError("why"))))
    found = lines_of(log.TextFormatter(), record(exc_info=raised(ValueError(hostile), KeyError(hostile))))
    assert (len(found), [line for line in found[1:] if not line.startswith("    ")]) == (len(plain), [])
    made = json.loads("".join(lines_of(log.JsonFormatter(), record(exc_info=raised(ValueError(hostile))))))
    assert len(made["exception"]) <= log.EXCEPTION_CHARACTERS


def test_an_error_is_told_with_what_led_to_it_and_the_place_of_each() -> None:
    text = log.TextFormatter().format(record("failed", exc_info=raised(ValueError("second"), KeyError("first"))))
    _, *below = [line.strip() for line in text.split("\n")]
    words = [line for line in below if not line.startswith(("File ", "raise ", "^"))]
    assert words == [
        "KeyError: 'first'",
        "It was the cause of:",
        "Traceback (most recent call last):",
        "ValueError: second",
    ]
    assert [line for line in below if "test_log.py" in line]


def test_a_chain_of_errors_that_has_no_end_does() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    text = log.TextFormatter().format(record(exc_info=(ValueError, first, None)))
    assert (text.count("first"), text.count("second")) == (1, 1)


class Wordless:
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class WordlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("form", [log.JsonFormatter, log.TextFormatter])
@pytest.mark.parametrize(
    "made",
    [
        record(value=Wordless()),
        record(message="%s", args=(Wordless(),)),
        record(message="%d and %d", args=("x",)),
        record(message=Wordless()),  # type: ignore[arg-type]  # some libraries log objects
        record(exc_info=(WordlessError, WordlessError(), None)),
        record(value=2**70),
        record(value=-(2**70)),
        record(value=10**5000),
        record(value=b"\xff"),
        record(value={1: {2: {3: {4: {5: {6: 7}}}}}}),
        record(value=[list(range(1000))] * 1000),
        with_fields({f"field{number}": number for number in range(1000)}),
    ],
    ids=range(12),
)
def test_what_has_no_text_or_no_form_costs_no_line(form: Any, made: Any) -> None:
    (line, *more) = lines_of(form(), made)
    assert (len(line) < 6 * log.FIELD_CHARACTERS, len(more) <= 1) == (True, True)


def test_a_field_with_a_name_of_the_line_does_not_take_its_place() -> None:
    made = with_fields({"time": "t", "level": "l", "logger": "x", "exception": "e", "msg": "told"})
    line = json.loads(log.JsonFormatter().format(made))
    assert (line["level"], line["logger"], line["message"]) == ("info", "worker.loop", "told")
    assert (line["time_"], line["level_"], line["logger_"], line["exception_"]) == ("t", "l", "x", "e")


class Extra(NamedTuple):
    """The fields of one log call, and the pairs of names that its function unpacks something into."""

    place: str
    fields: dict[str, ast.expr]
    spread: list[ast.expr]
    pairs: set[tuple[str, str]]


def extras_in(source: str, name: str = "source.py") -> Iterator[Extra]:
    """Yield the fields of all log calls in a source text."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for function in functions:
        unpacked = [node for node in ast.walk(function) if isinstance(node, ast.Tuple)]
        names = [[e.id for e in node.elts if isinstance(e, ast.Name)] for node in unpacked]
        pairs = {(each[0], each[1]) for each in names if len(each) == 2}
        for node in ast.walk(function):
            if isinstance(node, ast.keyword) and node.arg == "extra":
                assert isinstance(node.value, ast.Dict), f"{name}:{node.value.lineno}: extra is no literal"
                given = list(zip(node.value.keys, node.value.values, strict=True))
                fields = {str(key.value): value for key, value in given if isinstance(key, ast.Constant)}
                spread = [value for key, value in given if key is None]
                yield Extra(f"{name}:{node.value.lineno}", fields, spread, pairs)


def extras() -> list[Extra]:
    """Return the fields of all log calls of the worker."""
    root = Path(worker.__file__).parent
    found = [
        extra
        for path in sorted(root.rglob("*.py"))
        for extra in extras_in(path.read_text(encoding="utf-8"), str(path.relative_to(root)))
    ]
    assert len(found) > 25
    return found


def wrong_fields(extra: Extra) -> list[str]:
    """Return what is wrong with the fields of a log call; see `worker.telemetry.log` for what each of them is."""
    wrong = []
    if "partition" in extra.fields and not is_a_place(extra):
        wrong.append("topic and partition are not the two halves of one partition")
    if "reason" in extra.fields and not ast.unparse(extra.fields["reason"]).endswith(".value"):
        wrong.append("reason is no value of an enumeration")
    if isinstance(extra.fields.get("partitions"), (ast.Constant, ast.JoinedStr)):
        wrong.append("partitions is no list")
    known = re.compile(r"(\w+\.)*fields|_?named(\(.*\))?|extra", re.DOTALL)
    wrong += [f"**{text}" for each in extra.spread if not known.fullmatch(text := ast.unparse(each))]
    return wrong


def is_a_place(extra: Extra) -> bool:
    """Return whether topic and partition are `x.topic` and `x.partition`, or unpacked together from one value."""
    topic, partition = extra.fields.get("topic"), extra.fields["partition"]
    if isinstance(topic, ast.Name) and isinstance(partition, ast.Name):
        return (topic.id, partition.id) in extra.pairs
    if isinstance(topic, ast.Attribute) and isinstance(partition, ast.Attribute):
        same = ast.unparse(topic.value) == ast.unparse(partition.value)
        return same and (topic.attr, partition.attr) == ("topic", "partition")
    return False


def test_no_field_of_ours_has_a_name_that_logging_refuses() -> None:
    """`logging` raises KeyError for it, where the line is logged."""
    refused = (
        set(logging.makeLogRecord({}).__dict__) | {"message", "asctime"} | {"time", "level", "logger", "exception"}
    )
    assert [(extra.place, name) for extra in extras() for name in extra.fields.keys() & refused] == []


def test_a_field_has_one_type_and_one_meaning_wherever_it_is_logged() -> None:
    assert [(extra.place, wrong) for extra in extras() for wrong in wrong_fields(extra)] == []


@pytest.mark.parametrize(
    ("fields", "is_right"),
    [
        ('{"topic": tp.topic, "partition": tp.partition}', True),
        ('{"topic": topic, "partition": number}', True),
        ('{**block.fields, "error": "x"}', True),
        ('{"topic": topic, "reason": letter.reason.value}', True),
        ('{"partition": tp.partition}', False),
        ('{"partition": str(partition)}', False),
        ('{"partition": f"{topic}/{number}"}', False),
        ('{"topic": topic, "partition": partition}', False),
        ('{"topic": one.partition.topic, "partition": one.partition}', False),
        ('{"topic": topic, "partition": str(number)}', False),
        ('{"reason": str(error)}', False),
        ('{"reason": reason}', False),
        ('{"partitions": 3}', False),
        ("{**anything(partition)}", False),
    ],
)
def test_another_form_of_a_field_is_recognised(fields: str, is_right: bool) -> None:
    (extra,) = extras_in(f"def f(partition):\n    topic, number = partition\n    log.info('x', extra={fields})")
    assert (wrong_fields(extra) == []) is is_right


@pytest.mark.parametrize("form", [log.JsonFormatter, log.TextFormatter])
def test_a_secret_that_the_process_knows_is_in_no_line(form: Any) -> None:
    secret = "log-secret-0123456789"
    redaction.remember(secret)
    error = ValueError(f"header value: {secret!r}")
    made = with_fields({"msg": secret, "value": [secret], "exc_info": (ValueError, error, None), f"n{secret}": 1})
    assert secret not in form().format(made)
    long = record("x" * (log.FIELD_CHARACTERS - 5) + secret)
    assert secret[:4] not in form().format(long)


# -- libraries


NOISY = ["kafka.conn", "kafka.protocol.parser", "kafka.producer.kafka", "urllib3.connectionpool", "requests", "asyncio", "alibabacloud_oss_v2", "any.other"]  # fmt: skip


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
@pytest.mark.usefixtures("_loggers")
def test_no_library_logs_under_debug_whatever_the_level(capsys: pytest.CaptureFixture[str], level: Any) -> None:
    log.configure(Log(level=level, format="json"))
    for name in NOISY:
        logging.getLogger(name).debug("a password and a record")
    logging.getLogger("worker.loop").debug("ours")
    found = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert found == (["ours"] if level == "debug" else [])


@pytest.mark.usefixtures("_loggers")
def test_bytes_that_a_library_logs_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """kafka-python logs a response that it cannot read as an error, with all its bytes."""
    log.configure(Log(level="info", format="json"))
    given: tuple[Any, ...] = (6, b"secret")
    logging.getLogger("kafka.protocol.parser").error("cannot decode %d bytes: %r", *given)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "cannot decode 6 bytes: '<6 bytes>'"
