"""The demo, as a newcomer runs it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests
from kafka import KafkaConsumer, TopicPartition

from tests.support.bounded import running
from worker.local import demo
from worker.local.demo_messages import broken_messages


@pytest.fixture(scope="module")
def kept() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The demo with `--keep`, and what it has printed when all was left running."""
    # With SIGINT ignored, as a shell starts its background jobs; SIGINT ends it all the same.
    command = ["bash", "-c", """trap '' INT && exec "$@" """, "demo", sys.executable, "-m", "worker", "demo", "--keep"]
    with running(command, stop_seconds=60, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "logs" in line:
                break
        yield process, printed
        process.send_signal(signal.SIGINT)
        printed_after, _ = process.communicate(timeout=60)
        code = process.returncode
    assert (code, "ended" in printed_after) == (0, True), printed + printed_after


def _dead_letters(bootstrap: str) -> list[tuple[bytes | None, bytes | None, dict[str, bytes]]]:
    partition = TopicPartition(demo.DEAD_LETTER_TOPIC, 0)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        letters: list[tuple[bytes | None, bytes | None, dict[str, bytes]]] = []
        while consumer.position(partition) < end:
            for messages in consumer.poll(timeout_ms=1000).values():
                letters += [(message.key, message.value, dict(message.headers)) for message in messages]
        return letters
    finally:
        consumer.close()


def test_demo_tells_of_every_record_and_answers_questions_in_words(kept: tuple[subprocess.Popen[str], str]) -> None:
    _, printed = kept
    figures = dict(re.findall(r"│ +(\w+) +│ (\d+)", printed))
    settled = sum(int(figures[outcome]) for outcome in ("put", "superseded", "dead_lettered"))
    assert (figures["consumed"], settled) == ("568", 568), printed
    assert "the index holds exactly the newest version of all 520 vectors" in printed
    assert re.search(r"Flour your hands and the board lightly, and the bread dough", printed), printed
    assert re.search(r"express to the coast now leaves from platform nine", printed.replace("\n", " ")), printed


def test_demo_that_is_kept_names_its_page_first(kept: tuple[subprocess.Popen[str], str]) -> None:
    _, printed = kept
    _, _, addresses = printed.partition("Ctrl-C ends it")
    first = re.search(r"https?://[^ ]*|127\.0\.0\.1[^ ,]*", addresses)
    assert first is not None, printed
    session = requests.Session()
    session.trust_env = False
    with session.get(first[0], timeout=10) as answer:
        assert (answer.status_code, "<h1>running</h1>" in answer.text) == (200, True), answer.text


def test_demo_dead_letters_read_with_kafka_python_are_the_broken_records_byte_for_byte(
    kept: tuple[subprocess.Popen[str], str],
) -> None:
    _, printed = kept
    bootstrap = re.search(r"Kafka +(127\.0\.0\.1:\d+)", printed)
    assert bootstrap is not None, printed
    letters = _dead_letters(bootstrap[1])
    broken = broken_messages()
    assert sorted((key or b"", value or b"") for key, value, _ in letters) == sorted(
        (message.key or b"", message.value or b"") for _, message in broken
    )
    by_value = {message.value: (reason, dict(message.headers)) for reason, message in broken}
    for _, value, headers in letters:
        reason, source_headers = by_value[value]
        assert headers["oss-vectors.reason"].decode() == reason
        assert {name: headers[name] for name in source_headers} == source_headers
