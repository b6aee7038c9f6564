"""A replay broken off by SIGKILL, again and again: every record must be on the source topic exactly once.

`python -m tests.chaos.replays --rounds 50` reports it and exits with 1 where it did not hold.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from kafka import KafkaAdminClient

from tests.support.bounded import running
from tests.support.broker import create_topic
from tests.support.dead_letters import write_dead_letters
from tests.support.worker import Record, publish, read_topic
from worker.local.broker import Broker

_LETTERS = 400  # of each batch; the whole of one is replayed within a second
_LONGEST_SECONDS = 4.0  # of a command, before one has ended; a busy machine needs more
_SECONDS = 120.0


class Report(NamedTuple):
    """What was found. `killed` rounds were broken off, `mid` of them with a batch half replayed."""

    killed: int
    mid: int
    finished: int
    letters: int
    missing: int
    twice: int

    @property
    def is_clean(self) -> bool:
        """Return whether every record was replayed exactly once."""
        return not self.missing and not self.twice


class Replays:
    """Dead letters on a broker, and the command that replays them."""

    def __init__(self, broker: Broker, topic: str, dead_letter_topic: str, seed: int) -> None:
        self._broker = broker
        self._topic = topic
        self._dead_letter_topic = dead_letter_topic
        self._drawn = random.Random(seed)
        self._letters = 0
        self._longest_seconds = _LONGEST_SECONDS
        self._settings = _settings(broker, topic, dead_letter_topic)

    def run(self, rounds: int) -> Report:
        """Kill so many replays, then let one end."""
        killed = mid = finished = 0
        for _ in range(rounds):
            if self._replayed() == self._letters:
                self._write()
            if self._begin_and_kill():
                killed += 1
                mid += 0 < self._letters - self._replayed() < _LETTERS
            else:
                finished += 1
        done = subprocess.run(self._command(), env=self._settings, capture_output=True, timeout=_SECONDS, check=False)
        assert done.returncode == 0, done.stderr.decode()
        counts = self._counts()
        twice = sum(count > 1 for count in counts.values())
        return Report(killed, mid, finished, self._letters, self._letters - len(counts), twice)

    def _write(self) -> None:
        """Write another batch of records that failed; some in one partition, one key each."""
        keys = [f"key-{number}".encode() for number in range(self._letters, self._letters + _LETTERS)]
        publish(self._broker.bootstrap, self._topic, [Record(key, b"v" * 100) for key in keys])
        wanted = set(keys)
        records = [one for one in read_topic(self._broker.bootstrap, self._topic) if one.key in wanted]
        write_dead_letters(self._broker.bootstrap, self._topic, records, self._dead_letter_topic)
        self._letters += _LETTERS

    def _begin_and_kill(self) -> bool:
        """Run the command; return whether it was killed before its end."""
        begun = time.monotonic()
        with running(
            self._command(), env=self._settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(self._drawn.uniform(0.3, self._longest_seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                return True
        self._longest_seconds = time.monotonic() - begun
        return False

    def _command(self) -> list[str]:
        rate = self._drawn.choice(["0", "0", "300"])
        return [sys.executable, "-m", "worker", "dlq", "replay", "--all", "--yes", "--rate", rate]

    def _counts(self) -> Counter[bytes]:
        records = read_topic(self._broker.bootstrap, self._topic)
        return Counter(one.key for one in records if any(name == "oss-vectors.replay-of" for name, _ in one.headers))

    def _replayed(self) -> int:
        return len(self._counts())


def _settings(broker: Broker, topic: str, dead_letter_topic: str) -> Mapping[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OSS_")}
    return environment | {
        "OSS_VECTORS_ROUTES": f"{topic}:docs",
        "OSS_VECTORS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "OSS_VECTORS_DEAD_LETTER__TOPIC": dead_letter_topic,
        "OSS_VECTORS_OSS__REGION": "cn-hangzhou",
        "OSS_VECTORS_OSS__BUCKET": "demo",
        "OSS_VECTORS_OSS__ACCOUNT_ID": "123456789",
    }


def main() -> None:
    """Run it on a broker of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.replays", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="replays to break off (default 50)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="repeat the choices of another run")
    given = parser.parse_args()
    sys.stdout.write(f"seed {given.seed}\n")
    with Broker.start() as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        report = Replays(broker, create_topic(admin, 3), create_topic(admin), given.seed).run(given.rounds)
        admin.close()
    sys.stdout.write(f"{report}\n")
    sys.exit(0 if report.is_clean else 1)


if __name__ == "__main__":
    main()
