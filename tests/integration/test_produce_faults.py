"""`produce` where something is in its way: silent pipes, full disks, limits of the broker, a terminal that it writes to."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.bounded import running
from tests.support.broker import TopicFactory
from tests.support.commands import command
from tests.support.worker import Stage, StageFactory, read_topic, wait_for

PRODUCE = (sys.executable, "-m", "worker", "produce")


def line(key: str, **fields: Any) -> str:
    """Return a record of four dimensions."""
    return json.dumps({"key": key, "data": {"float32": [1.0, 1.0, 2.0, 3.0]}} | fields)


@pytest.fixture
def stage(new_stage: StageFactory) -> Stage:
    """A stage of one partition."""
    return new_stage(partitions=1)


def test_a_signal_ends_it_while_its_pipe_is_silent(stage: Stage) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running([*PRODUCE, "-"], env=stage.settings(), **pipes) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(line("a") + "\n" + line("b")[:9])
        process.stdin.flush()
        wait_for(lambda: read_topic(stage.broker.bootstrap, stage.topic), "the record comes")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
        assert process.stderr.read().strip().endswith("stopped by a signal: continue with --start-line 2")


def test_a_closed_standard_input_is_one_line(stage: Stage) -> None:
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *PRODUCE, "-", "--dry-run"]
    done = subprocess.run(closed, env=stage.settings(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1].partition(":")[0]) == (1, "error")
    assert "standard input is closed" in done.stderr


def test_a_full_disk_for_the_bad_records_says_where_to_continue(stage: Stage) -> None:
    records = f"{line('a')}\n{{\n{line('b')}\n".encode()
    done = command(stage.settings(), "produce", "-", "--skip-bad", "--bad-file", "/dev/full", stdin=records)
    assert done.code == 1
    told = "bad line 2 cannot be written to /dev/full: No space left on device; continue with --start-line 2"
    assert done.last_error == f"error: {told}"
    assert len(read_topic(stage.broker.bootstrap, stage.topic)) == 1


def test_bad_records_are_added_to_their_file_and_never_to_the_one_that_is_read(stage: Stage, tmp_path: Path) -> None:
    bad, source = tmp_path / "bad.jsonl", tmp_path / "records.jsonl"
    bad.write_text("before\n", encoding="utf-8")
    source.write_text("{\n", encoding="utf-8")
    command(stage.settings(), "produce", source, "--dry-run", "--skip-bad", "--bad-file", bad)
    assert bad.read_text(encoding="utf-8") == "before\n{\n"
    done = command(stage.settings(), "produce", source, "--dry-run", "--skip-bad", "--bad-file", source)
    assert (done.code, "is the file that is read" in done.last_error) == (1, True)
    assert source.read_text(encoding="utf-8") == "{\n"


def test_a_record_that_the_topic_does_not_take_is_named_and_what_came_before_is_there(
    stage: Stage, new_topic: TopicFactory
) -> None:
    topic = new_topic(1, max_message_bytes="20000")
    lines = [line("a"), line("b", padding=os.urandom(30_000).hex()), line("c")]
    settings = stage.settings(routes={topic: stage.index})
    done = command(settings, "produce", "-", stdin="\n".join(lines).encode())
    assert done.code == 1
    assert "record of line 2: MessageSizeTooLargeError" in done.last_error
    assert done.last_error.endswith("or raise max.message.bytes of the topic; continue with --start-line 2")
    assert b"a" in [record.key for record in read_topic(stage.broker.bootstrap, topic)]


def test_a_topic_that_is_not_there_is_named_and_not_made(stage: Stage) -> None:
    done = command(stage.settings(routes={"nowhere-yet": stage.index}), "produce", "-", stdin=line("a").encode())
    assert (done.code, "kafka has no topic nowhere-yet" in done.last_error) == (1, True)
    assert "nowhere-yet" not in stage.admin.list_topics()


def test_a_terminal_gets_a_bar_with_rate_and_time_left_and_no_colour(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text("".join(f"{line(str(number))}\n" for number in range(30)), encoding="utf-8")
    ours, terminal = pty.openpty()
    shown = b""
    environment = stage.settings() | {"TERM": "xterm", "NO_COLOR": "1"}
    with running([*PRODUCE, str(file), "--rate", "10"], env=environment, stderr=terminal) as process:
        os.close(terminal)
        while chunk := _read(ours):
            shown += chunk
        assert process.wait(60) == 0
    os.close(ours)
    text = shown.decode()
    assert re.search(r"published +\[#+-*\] +\d+/30 +\d+% .*records/s", text), text
    assert re.search(r"00:00:0\d", text), text
    assert not re.search(r"\x1b\[\d+m", text), text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("-", "--bad-file", "x"), 2, "--bad-file needs --skip-bad"),
        (("-", "--rate", "nan"), 2, "nan is no rate"),
        (("-", "--rate", "1e-300"), 2, "is no rate"),
        (("/", "--dry-run"), 2, "is a directory"),
        (("-", "--dry-run", "--start-line", "5"), 0, ""),
    ],
)
def test_wrong_usage_is_one_line(stage: Stage, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = command(stage.settings(), "produce", *arguments)
    assert done.code == code
    assert told in done.err


def test_several_routes_want_a_topic_and_a_start_behind_the_end_is_said(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(line("a") + "\n", encoding="utf-8")
    settings = stage.settings(routes={stage.topic: stage.index, "other": stage.index})
    done = command(settings, "produce", file)
    assert (done.code, f"name one with --topic, of {stage.topic}, other" in done.last_error) == (1, True)
    done = command(settings, "produce", file, "--topic", stage.topic, "--dry-run", "--start-line", 9)
    assert (done.code, "--start-line 9 is behind the last line, which is 1" in done.err) == (0, True)
