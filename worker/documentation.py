"""The parts of the README that are made from the code: `python -m worker.documentation README.md` puts them in place."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from prometheus_client import CollectorRegistry

from worker.ledger import Ledger, Partition
from worker.settings import show
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status


def settings() -> str:
    """Return the settings with their defaults, as a block of TOML."""
    return f"```toml\n{show.example()}\n```\n"


def metrics() -> str:
    """Return the table of the worker's own metrics."""
    rows = ["| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
    for family in sorted(_sample_registry().collect(), key=lambda family: family.name):
        if family.name.startswith("oss_vectors_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            rows.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    return "\n".join(rows) + "\n"


def _sample_registry() -> CollectorRegistry:
    """Return a registry in which every metric has a series, so that its labels show."""
    ledger = Ledger(("vectors",), lambda: 0.0)
    partition = Partition("vectors", 0)
    ledger.open(ledger.assign(partition), 0, 0)
    made = Metrics(ledger, Status(0.0), ("vectors",), ("docs",))
    made.ends.update({partition: 0}, {partition: 0})
    made.worker_info.labels("", "", "")
    return made.registry


PARTS: Final = MappingProxyType({"settings": settings, "metrics": metrics})


def main(path: Path) -> None:
    """Put every part in its place."""
    text = path.read_text(encoding="utf-8")
    for name, make in PARTS.items():
        text = _replaced(text, name, make)
    path.write_text(text, encoding="utf-8")


def _replaced(text: str, name: str, make: Callable[[], str]) -> str:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}{make()}{end}", text, flags=re.DOTALL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
