"""The demo: the whole chain on this machine, from real embeddings on a real Kafka to a nearest-neighbour answer.

It starts Apache Kafka and the OSS vector service's emulator, publishes sentences with their embeddings, newer versions
of some, and a handful of broken records, and runs the worker as a user would, in a process of its own. In the end it
compares the index with what was published, and asks it three questions.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final, Self

import alibabacloud_oss_v2.vectors as sdk_vectors
import numpy as np
import requests
from alibabacloud_oss_v2.exceptions import OperationError
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from worker.deadletters.headers import REASON
from worker.local.broker.errors import BrokerError
from worker.local.broker.server import Broker
from worker.local.client import Client
from worker.local.demo_messages import broken_messages, good_messages
from worker.local.process import Process, spawn
from worker.local.provision import ProvisionError, provision
from worker.local.sentences import DIMENSION, Sentence, load
from worker.settings import tables

TOPIC: Final = "sentences"
DEAD_LETTER_TOPIC: Final = "sentences.dlq"
INDEX: Final = "sentences"
BUCKET: Final = "demo"
ACCOUNT_ID: Final = "1234567890"
REGION: Final = "cn-hangzhou"
KEY_ID: Final = "test"
KEY_SECRET: Final = "test"  # noqa: S105 - of the emulator, which guards nothing
PARTITIONS: Final = 3
QUESTIONS: Final = ("query-cooking", "query-trains", "query-birds")  # two are answered by a newer version
NEIGHBOURS: Final = 3
WAIT_SECONDS: Final = 60.0


class DemoError(Exception):
    """The demo did not come to its end; the message says where."""


class Demo:
    """One run of the demo."""

    def __init__(self, console: Console, folder: Path, stack: ExitStack) -> None:
        self._console = console
        self._folder = folder
        self._stack = stack
        self._data = load()
        self._good = good_messages(self._data)
        self._broken = broken_messages()

    def start_services(self) -> None:
        """Start Kafka and the emulator, and make topics, bucket and index."""
        with self._console.status("Starting Apache Kafka and the emulator of the OSS vector service"):
            self._emulator, port = self._start(
                "emulator", ["local", "emulator", "--port", "0"], dict(os.environ), "stdout"
            )
            self._endpoint = f"http://127.0.0.1:{port}"
            self._broker = self._stack.enter_context(Broker.start(report=lambda line: self._console.print(f"  {line}")))
            admin = KafkaAdminClient(bootstrap_servers=self._broker.bootstrap)
            admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1), NewTopic(DEAD_LETTER_TOPIC, 1, 1)])
            admin.close()
            self._service = self._stack.enter_context(_Service(self._endpoint))
            provision(
                endpoint=self._endpoint,
                region=REGION,
                account_id=ACCOUNT_ID,
                bucket=BUCKET,
                index=INDEX,
                dimension=DIMENSION,
                distance_metric="cosine",
                access_key_id=KEY_ID,
                access_key_secret=KEY_SECRET,
            )
        self._console.print(f"[green]✓[/] Apache Kafka {self._broker.version} on {self._broker.bootstrap}")
        self._console.print(f"[green]✓[/] OSS vector service (emulator) on {self._endpoint}")

    def start_worker(self) -> None:
        """Start the worker as a user would: `oss-vectors-worker run`, with its settings in the environment."""
        self._worker, port = self._start("worker", ["run"], self._worker_environment(), "stderr")
        self._metrics_url = f"http://127.0.0.1:{port}"
        self._console.print(f"[green]✓[/] oss-vectors-worker run, its page is {self._metrics_url}/")

    def _worker_environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(tables.ENV_PREFIX)}
        return ours | {
            "OSS_VECTORS_ROUTES": f"{TOPIC}:{INDEX}",
            "OSS_VECTORS_KAFKA__BOOTSTRAP_SERVERS": self._broker.bootstrap,
            "OSS_VECTORS_DEAD_LETTER__TOPIC": DEAD_LETTER_TOPIC,
            "OSS_VECTORS_OSS__REGION": REGION,
            "OSS_VECTORS_OSS__BUCKET": BUCKET,
            "OSS_VECTORS_OSS__ACCOUNT_ID": ACCOUNT_ID,
            "OSS_VECTORS_OSS__ENDPOINT": self._endpoint,
            "OSS_VECTORS_HTTP__HOST": "127.0.0.1",
            "OSS_VECTORS_HTTP__PORT": "0",
            "OSS_VECTORS_LOG__FORMAT": "json",
            "OSS_ACCESS_KEY_ID": KEY_ID,
            "OSS_ACCESS_KEY_SECRET": KEY_SECRET,
        }

    def _start(self, name: str, arguments: Sequence[str], env: Mapping[str, str], port_on: str) -> tuple[Process, int]:
        """Start a command of ours; returns it with the port that it prints on its first lines."""
        log = self._stack.enter_context((self._folder / f"{name}.log").open("w"))
        process = spawn(
            [sys.executable, "-m", "worker", *arguments],
            env=env,
            stdout=subprocess.PIPE if port_on == "stdout" else log,
            stderr=subprocess.PIPE if port_on == "stderr" else log,
        )
        self._stack.enter_context(process)
        lines = process.stdout if port_on == "stdout" else process.stderr
        assert lines is not None  # noqa: S101 - asked for as a pipe above; the type checker wants it said
        port = _find_port(lines, log)
        if port is None:
            raise DemoError(
                f"the {name} ended before it listened: {(self._folder / f'{name}.log').read_text().strip()}"
            )
        pump = threading.Thread(target=shutil.copyfileobj, args=(lines, log), daemon=True)
        pump.start()
        self._stack.callback(lines.close)
        self._stack.callback(pump.join)
        self._stack.callback(process.terminate)
        return process, port

    def publish(self) -> None:
        """Publish all: the good ones in order, the broken ones strewn between them."""
        rng = random.Random(7)  # noqa: S311 - the same demo every time
        messages = list(self._good)
        for _, broken in self._broken:
            messages.insert(rng.randrange(len(messages)), broken)
        producer = KafkaProducer(bootstrap_servers=self._broker.bootstrap, compression_type="zstd", linger_ms=20)
        for message in messages:
            producer.send(TOPIC, key=message.key, value=message.value, headers=list(message.headers))
        producer.flush()
        producer.close()
        self._console.print(
            f"[green]✓[/] published {len(self._data.sentences)} sentences with their embeddings, {len(self._data.updates)} "
            f"newer versions, {len(self._broken)} broken records"
        )

    def follow(self) -> dict[str, float]:
        """Show the worker's progress by its own metrics until all is settled and committed; returns the outcomes."""
        total = len(self._good) + len(self._broken)
        columns = (TextColumn("  {task.description:14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        deadline = time.monotonic() + WAIT_SECONDS
        with Progress(*columns, console=self._console) as progress:
            bars: dict[str, TaskID] = {
                name: progress.add_task(name, total=total) for name in ("consumed", "settled", "committed")
            }
            while time.monotonic() < deadline:
                if self._worker.poll() is not None:
                    raise DemoError(f"the worker ended: {self._last_words()}")
                figures = _figures(self._metrics_url)
                done = {name: figures.get(name, 0.0) for name in bars}
                for name, bar in bars.items():
                    progress.update(bar, completed=done[name])
                if all(count >= total for count in done.values()):
                    return figures
                time.sleep(0.1)
        raise DemoError(f"not all was settled within {WAIT_SECONDS:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        return " / ".join((self._folder / "worker.log").read_text().splitlines()[-3:])

    def report(self, figures: Mapping[str, float]) -> None:
        """Show the worker's books."""
        table = Table(title="What became of the records", title_justify="left", show_header=False)
        table.add_row("consumed", f"{figures['consumed']:.0f}")
        for outcome in ("put", "superseded", "dead_lettered"):
            table.add_row(f"  {outcome}", f"{figures.get(outcome, 0):.0f}")
        for reason, count in sorted(
            (n.removeprefix("reason:"), c) for n, c in figures.items() if n.startswith("reason:") and c
        ):
            table.add_row(f"    {reason}", f"{count:.0f}")
        self._console.print(table)

    def check(self) -> None:
        """Hold the index and the dead-letter topic against what was published. Raises `DemoError` at a difference."""
        newest = {sentence.key: sentence for sentence in (*self._data.sentences, *self._data.updates)}
        found = self._service.all_vectors()
        wrong = [key for key, sentence in newest.items() if not _is_same(found.get(key), sentence)]
        if wrong or found.keys() - newest.keys():
            raise DemoError(
                f"the index differs from what was published: {wrong + sorted(found.keys() - newest.keys())}"
            )
        self._console.print(f"[green]✓[/] the index holds exactly the newest version of all {len(newest)} vectors")
        dead_letters = _read_all(self._broker.bootstrap, DEAD_LETTER_TOPIC)
        expected = sorted((reason, message.key or b"", message.value or b"") for reason, message in self._broken)
        if sorted((_reason(each), each.key or b"", each.value or b"") for each in dead_letters) != expected:
            raise DemoError("the dead letters are not the broken records, byte for byte")
        self._console.print(f"[green]✓[/] the {len(dead_letters)} dead letters are the broken records, byte for byte")

    def ask(self) -> None:
        """Ask the index for the nearest neighbours of some questions."""
        for question in (query for query in self._data.queries if query.key in QUESTIONS):
            lines = [f"{1 - distance:.2f}  {text}" for distance, text in self._service.nearest(question.vector)]
            self._console.print(
                Panel("\n".join(lines), title=f"[bold]{question.text}", title_align="left", expand=False)
            )

    def stop_worker(self) -> None:
        """Stop the worker as an orchestrator would, and want a clean end."""
        code = self._worker.terminate()
        if code:
            raise DemoError(f"the worker ended with code {code}: {self._last_words()}")
        self._console.print("[green]✓[/] the worker drained, committed and ended on SIGTERM")

    def keep(self) -> None:
        """Print the addresses and wait for Ctrl-C."""
        self._console.print(
            Panel(
                f"page        {self._metrics_url}/\n"
                f"Kafka       {self._broker.bootstrap}, topics {TOPIC} and {DEAD_LETTER_TOPIC}\n"
                f"emulator    {self._endpoint}, bucket {BUCKET}, account {ACCOUNT_ID}, index {INDEX}, "
                f"credentials {KEY_ID} / {KEY_SECRET}\n"
                f"worker      {self._metrics_url}/metrics, /healthz, /readyz\n"
                f"logs        {self._folder}",
                title="All is left running; Ctrl-C ends it",
                title_align="left",
                expand=False,
            )
        )
        sys.stdout.flush()
        self._worker.wait()
        raise DemoError(f"the worker ended: {self._last_words()}")


class _Service:
    """The emulator, through the official SDK."""

    def __init__(self, endpoint: str) -> None:
        settings = tables.Oss(region=REGION, bucket=BUCKET, account_id=ACCOUNT_ID, endpoint=endpoint)
        environ = {"OSS_ACCESS_KEY_ID": KEY_ID, "OSS_ACCESS_KEY_SECRET": KEY_SECRET}
        self._client = Client(settings, environ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def all_vectors(self) -> dict[str, Mapping[str, Any]]:
        request = sdk_vectors.models.ListVectorsRequest(
            bucket=BUCKET, index_name=INDEX, return_data=True, return_metadata=True
        )
        pages = self._client.sdk.list_vectors_paginator().iter_page(request)
        return {vector["key"]: vector for page in pages for vector in page.vectors}

    def nearest(self, vector: Any) -> Iterator[tuple[float, str]]:
        answer = self._client.sdk.query_vectors(
            sdk_vectors.models.QueryVectorsRequest(
                bucket=BUCKET,
                index_name=INDEX,
                query_vector={"float32": vector.tolist()},
                top_k=NEIGHBOURS,
                return_distance=True,
                return_metadata=True,
            )
        )
        for found in answer.vectors:
            yield float(found["distance"]), str(found["metadata"]["text"])


def _is_same(found: Mapping[str, Any] | None, sentence: Sentence) -> bool:
    return (
        found is not None
        and np.asarray(found["data"]["float32"], np.float32).tobytes() == sentence.vector.tobytes()
        and found["metadata"] == {"topic": sentence.topic, "text": sentence.text}
    )


def _find_port(lines: IO[str], log: IO[str]) -> int | None:
    """Read lines, and copy them to the log, until one contains the port; None if they end before."""
    for line in lines:
        log.write(line)
        log.flush()
        if line.startswith("{") and (entry := json.loads(line)).get("message") == "http":
            return int(entry["port"])
        if line.startswith("OSS vector emulator on "):
            return int(line.rpartition(":")[2])
    return None


def _figures(url: str) -> dict[str, float]:
    """Return what the worker's metrics say: consumed, settled, committed, each outcome, each dead letter's reason."""
    figures: dict[str, float] = {"settled": 0.0, "committed": 0.0}
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the environment does not reach this machine
        text = session.get(f"{url}/metrics", timeout=5).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "oss_vectors_records_consumed_total":
                figures["consumed"] = sample.value
            elif sample.name == "oss_vectors_records_settled_total":
                figures[sample.labels["outcome"]] = sample.value
                figures["settled"] += sample.value
            elif sample.name == "oss_vectors_committed_offset":
                figures["committed"] += sample.value
            elif sample.name == "oss_vectors_dead_letters_total":
                figures[f"reason:{sample.labels['reason']}"] = sample.value
    return figures


def _read_all(bootstrap: str, topic: str) -> list[Any]:
    """Return all messages of a topic, up to its end of now."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        missing = sum(consumer.end_offsets(partitions).values())
        messages: list[Any] = []
        deadline = time.monotonic() + WAIT_SECONDS
        while len(messages) < missing and time.monotonic() < deadline:
            messages += [message for part in consumer.poll(timeout_ms=500).values() for message in part]
        return messages
    finally:
        consumer.close()


def _reason(dead_letter: Any) -> str:
    return str(dict(dead_letter.headers)[REASON].decode())


def run(*, keep: bool) -> None:
    """Run the demo. Exits with 1 and the reason where it does not come to its end."""
    console = Console(highlight=False)
    # SIGINT too: a shell starts its background jobs with it ignored, and Python then leaves it so.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="oss-vectors-demo-"))
    try:
        with ExitStack() as stack:
            demo = Demo(console, folder, stack)
            demo.start_services()
            demo.start_worker()
            demo.publish()
            demo.report(demo.follow())
            demo.check()
            demo.ask()
            if keep:
                demo.keep()
            demo.stop_worker()
    except (DemoError, BrokerError, ProvisionError, KafkaError, OperationError, requests.RequestException) as error:
        console.print(f"[red]✗[/] {escape(str(error) or type(error).__name__)}")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("ended")
    else:
        console.print(f"[green]✓[/] done in {time.monotonic() - started:.1f} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
