"""A thread that dies, or a main loop that does not turn any more, ends the process with its reason: never a zombie."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.worker import StageFactory, WorkerProcess, wait_for
from worker.local.process import spawn

# What the worker's process does before it is the worker.
DIE = """
def die(*_args, **_kwargs):
    raise RuntimeError("brought about on purpose")
"""
RUN = """
import sys
from worker.cli import main
sys.argv = ["oss-vectors-worker", "run"]
main()
"""

THREADS = {
    "slot-vectors-": "from worker.delivery.courier import Courier; Courier.deliver = die",
    "dead-letters": "from worker.deadletters.rounds import Rounds; Rounds._write_round = die",
    "end-offsets": "from worker.consumer.ends import EndWatcher; EndWatcher._run = die",
    "index-vectors": "from worker.app.targets import TargetFinder; TargetFinder._describe = die",
    "http": "from worker.telemetry.http_server import HttpServer; HttpServer._run = die",
    "watchdog": "from worker.app.watchdog import Watchdog; Watchdog._run = die",
}

QUICK_WATCHDOG = """
import time
from worker.app import steering, watchdog, wiring
from worker.telemetry import health
health.STILL_SECONDS = wiring.STILL_SECONDS = 1.0
wiring.MAIN_LOOP_STILL_SECONDS = 4.0
watchdog.Watchdog.LOOK_SECONDS = 0.5
"""


class BrokenWorker(WorkerProcess):
    """A worker of whose code something is replaced before it starts."""

    def __init__(self, settings: Mapping[str, str], log: Path, broken: str) -> None:
        self.log = log
        with log.open("wb") as out:
            self._process = spawn(
                [sys.executable, "-c", DIE + broken + "\n" + RUN], env=settings, stdout=out, stderr=out
            )
        self._port = 0

    def last_line(self) -> str:
        return self.text().splitlines()[-1]


Break = Callable[[Mapping[str, str], str], BrokenWorker]


@pytest.fixture
def start_broken(tmp_path: Path) -> Iterator[Break]:
    """The factory of broken workers, which end with the test."""
    started: list[BrokenWorker] = []

    def start(settings: Mapping[str, str], broken: str) -> BrokenWorker:
        started.append(BrokenWorker(settings, tmp_path / f"broken-{len(started)}.log", broken))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


@pytest.mark.parametrize("name", THREADS)
def test_a_thread_that_dies_ends_the_process_and_is_named(
    new_stage: StageFactory, start_broken: Break, name: str
) -> None:
    stage = new_stage(partitions=1)
    stage.publish_versions([("a", [1.0] * 4), ("bad", [1.0])])

    worker = start_broken(stage.settings(), THREADS[name])

    assert worker.wait() == 1
    last = worker.last_line()
    assert last.startswith("error: ")
    assert name in last
    assert "RuntimeError: brought about on purpose" in worker.text()
    assert stage.committed().get(0, 0) <= 1


def test_an_error_in_the_main_loop_ends_the_process_with_its_reason(
    new_stage: StageFactory, start_broken: Break
) -> None:
    worker = start_broken(new_stage().settings(), "from worker.app.intake import Intake; Intake.seal_due = die")

    assert worker.wait() == 1
    assert worker.last_line().startswith("error: the main loop failed")
    assert "brought about on purpose" in worker.last_line()


def test_a_main_loop_that_does_not_turn_is_not_healthy_and_then_ended(
    new_stage: StageFactory, start_broken: Break
) -> None:
    stage = new_stage()
    still = "steering.Steering.steer = lambda *_: time.sleep(3600)"

    worker = start_broken(stage.settings(kafka__revoke_seconds=0.5), f"{QUICK_WATCHDOG}\n{still}")

    # It still answers, so that it can say so.
    wait_for(lambda: worker.healthz().status == 503, "it is not healthy")
    assert worker.healthz().json["seconds_since_last_turn"] >= 1
    assert worker.wait() == 1
    assert worker.last_line() == "error: the main loop has not turned for 4 s"
    assert "in <lambda>" in worker.text()  # the stacks of all threads


def test_a_main_loop_that_turns_slowly_is_left_alone(new_stage: StageFactory, start_broken: Break) -> None:
    stage = new_stage(partitions=1)
    slow = "steer = steering.Steering.steer\nsteering.Steering.steer = lambda *each: (time.sleep(1.5), steer(*each))"

    worker = start_broken(stage.settings(kafka__revoke_seconds=0.5), f"{QUICK_WATCHDOG}\n{slow}")
    stage.publish_versions([("a", [1.0] * 4)])

    worker.wait_until(
        lambda m: m.total("commits_total", result="ok") >= 1, "it goes on for longer than the watchdog waits"
    )
    assert stage.dump() == stage.model()
    assert worker.terminate() == 0
