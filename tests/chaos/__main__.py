"""`python -m tests.chaos --minutes 10`: a soak, with its report. Exits with 1 where a promise did not hold."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import run


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the storm lasts (default 10)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="repeat the choices of another run")
    parser.add_argument("--rate", type=float, default=300.0, help="records a second (default 300)")
    parser.add_argument("--logs", type=Path, help="keep the workers' logs in this folder")
    parser.add_argument("--only", action="append", help="only this fault; may be given several times")
    given = parser.parse_args()
    sys.stdout.write(f"seed {given.seed}\n")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        logs = given.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        report = run(given.seed, given.minutes * 60, logs, only=given.only, rate=given.rate)
    sys.stdout.write(f"{report}\n")
    sys.exit(0 if report.is_clean else 1)


if __name__ == "__main__":
    main()
