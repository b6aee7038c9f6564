"""`python -m tests.troubles`: brings about all troubles at once, and prints the table of what was seen of each.

A run takes the minutes of the trouble and of the recovery, and about three for the start and the end.
"""

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.support.bounded import join, thread
from tests.support.fronted_broker import BriefAdmin
from tests.support.worker import free_port
from tests.troubles.case import Case
from tests.troubles.catalogue import TROUBLES, Trouble, nothing
from tests.troubles.monitoring import running_monitoring
from tests.troubles.stand import Publisher, Stand, running_stand
from tests.troubles.table import table
from tests.troubles.watch import Seen, Watch, Watched

LOOK_SECONDS = 5.0
WARM_SECONDS = 60.0
KEEP_SECONDS = 15.0
READY_SECONDS = 90.0


def new_case(number: int, trouble: Trouble, stand: Stand) -> Case:
    """Make the topics, the index and the targets of a trouble."""
    job = f"oss-vectors-worker-{number:02}"
    broker = stand.alone if trouble.broker == "alone" else stand.nodes[0]
    group = job if trouble.broker == "alone" else stand.group(job, 2 if trouble.broker == "second" else 1)
    ports = [free_port() for _ in range(trouble.workers)]
    admin = BriefAdmin(broker.bootstrap)
    case = Case(trouble.name, job, broker, admin, stand.emulator, stand.folder, group, ports, placed=trouble.placed)
    case.bucket, case.index = stand.emulator.new_index()
    case.make_topic(case.topic, {1: 2} if trouble.placed else None)
    case.make_topic(case.dead_letters)
    case.targets(*([] if trouble.start is nothing else ports[:1]))
    return case


def add_case(number: int, trouble: Trouble, stand: Stand, stack: ExitStack) -> Watched | Seen:
    """Make ready for a trouble; where that fails, it costs that trouble only, of which nothing is seen."""
    seen = Seen(trouble.name, trouble.alerts)
    try:
        case = new_case(number, trouble, stand)
    except Exception as error:
        seen.failure = f"start: {_told(error)} "
        say(f"{trouble.name}: {seen.failure}")
        return seen
    stack.callback(case.close)
    return Watched(case, trouble, seen)


def step(one: Watched, name: str, stand: Stand) -> None:
    """Run a step of a trouble; one that fails costs that trouble only."""
    try:
        getattr(one.trouble, name)(stand, one.case)
    except Exception as error:
        one.seen.failure += f"{name}: {_told(error)} "
        say(f"{one.trouble.name}: {one.seen.failure}")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def say(text: str) -> None:
    """Say it, with the time."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def await_ready(everything: Sequence[Watched]) -> None:
    """Wait until the workers are ready, so that no record is late because so many of them start at once."""
    for one in everything:
        for process in one.case.workers:
            try:
                process.wait_ready(READY_SECONDS)
            except Exception as error:  # it costs that trouble only
                one.seen.failure += f"start: {_told(error)} "


@contextmanager
def looking(watch: Watch) -> Iterator[None]:
    """Look again and again in a thread of its own, also while a step of a trouble takes its time."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                watch.look()
            except Exception as error:  # the next look may do
                say(f"a look failed: {_told(error)}")
            stop.wait(max(0.5, LOOK_SECONDS - (time.monotonic() - began)))

    thread_of_looks = thread(look, name="looks")
    try:
        yield
    finally:
        stop.set()
        join(thread_of_looks)


def keep(given: argparse.Namespace, seen: Sequence[Seen]) -> None:
    """Write what was seen so far, so that a run that breaks keeps what it has."""
    seconds = given.trouble_minutes * 60
    told = {"trouble_seconds": seconds, "troubles": [asdict(one) for one in seen]}
    before = json.loads(given.before.read_text()) if given.before else None
    for path, text in ((given.json, json.dumps(told, indent=1)), (given.table, table(seen, seconds, before))):
        if path:
            fresh = path.with_name(f"{path.name}.new")
            fresh.write_text(f"{text}\n")
            fresh.rename(path)


def wait(seconds: float, given: argparse.Namespace, watch: Watch, seen: Sequence[Seen]) -> None:
    """Let so much time pass, and write what was seen again and again."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, KEEP_SECONDS))
        watch.read_messages()
        keep(given, seen)


def run(troubles: Sequence[Trouble], folder: Path, given: argparse.Namespace) -> list[Seen]:
    """Run all of them at once."""
    with ExitStack() as stack:
        stand = stack.enter_context(running_stand(folder))
        added = [add_case(number, trouble, stand, stack) for number, trouble in enumerate(troubles, 1)]
        everything = [one for one in added if isinstance(one, Watched)]
        cases = [one.case for one in everything]
        monitoring = stack.enter_context(running_monitoring(folder, cases, given.scrape_seconds))
        watch = Watch(everything, monitoring, given.screens, folder / "chromium")
        seen = [one.seen if isinstance(one, Watched) else one for one in added]
        with looking(watch):
            for one in everything:
                step(one, "start", stand)
            await_ready(everything)
            say("started")
            stack.enter_context(closing(Publisher(cases)))
            wait(WARM_SECONDS, given, watch, seen)
            for one in everything:
                one.begun = time.time()
                if one.trouble.start is nothing:
                    one.case.targets(one.case.ports[0])
                step(one, "begin", stand)
            say("all troubles have begun")
            wait(given.trouble_minutes * 60, given, watch, seen)
            watch.capture_the_rest()
            for one in everything:
                one.fixed = time.time()
                step(one, "fix", stand)
            say("all troubles are fixed")
            wait(given.recovery_minutes * 60, given, watch, seen)
        watch.finish()
        keep(given, seen)
        return seen


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.troubles", description=__doc__)
    parser.add_argument("--trouble-minutes", type=float, default=14.0, help="how long each lasts (default 14)")
    parser.add_argument("--recovery-minutes", type=float, default=8.0, help="how long to look afterwards (default 8)")
    parser.add_argument("--scrape-seconds", type=float, default=10.0, help="of Prometheus (default 10)")
    parser.add_argument("--before", type=Path, help="the JSON of an earlier run, to compare with")
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    parser.add_argument("--table", type=Path, help="write the table to this file; else it is printed")
    parser.add_argument("--screens", type=Path, help="keep the screenshots in this folder")
    parser.add_argument("--folder", type=Path, help="keep logs and data in this folder")
    parser.add_argument("--only", action="append", help="only troubles whose name contains this; may be given often")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    chosen = [one for one in TROUBLES if not given.only or any(part in one.name for part in given.only)]
    with tempfile.TemporaryDirectory(prefix="troubles-") as temporary:
        folder = given.folder or Path(temporary)
        given.screens = given.screens or folder / "screens"
        for each in (folder / "chromium", given.screens):
            each.mkdir(parents=True, exist_ok=True)
        seen = run(chosen, folder.resolve(), given)
    if not given.table:
        before = json.loads(given.before.read_text()) if given.before else None
        sys.stdout.write(f"{table(seen, given.trouble_minutes * 60, before)}\n")


if __name__ == "__main__":
    main()
