"""The commands as a user calls them: a process, its output, and its exit code."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

LIMIT_S = 120.0


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last_error(self) -> str:
        """The last line on standard error, where the reason of a failure is."""
        return self.err.strip().rpartition("\n")[2]


def command(settings: Mapping[str, str], *arguments: object, stdin: bytes = b"") -> Done:
    """Run `oss-vectors-worker` with these arguments, and settings as its environment, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "worker", *map(str, arguments)],
        env=dict(settings),
        input=stdin,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    found = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in found.err, found.err
    return found
