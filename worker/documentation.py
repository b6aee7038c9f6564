"""The tables of the documentation that are made from the code: `python -m worker.documentation` renews all of them."""

import re
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Final

from prometheus_client import CollectorRegistry

from worker.ledger import Ledger, Partition
from worker.settings import show
from worker.telemetry.kafka_facts import GroupFacts, Retention, TopicFacts
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

COMMAND: Final = "python -m worker.documentation"
ROOT: Final = Path(__file__).parents[1]


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
    facts = made.kafka_facts
    facts.topics = {"vectors": TopicFacts(False)}
    facts.group = GroupFacts((), {"vectors": 0}, {"vectors": 0})
    facts.log_starts = {partition: 0}
    facts.retention = Retention({"vectors": 0.0}, 0.0)
    made.expiry.certificates = {"kafka-client": lambda: 0.0}
    made.worker_info.labels("", "", "", "")
    made.route_info.labels("vectors", "docs")
    return made.registry


PAGES: Final = MappingProxyType({"ops/settings.md": ("settings", settings), "ops/metrics.md": ("metrics", metrics)})
"""Each page with a generated part: the name in its markers, and the function that makes the part."""


def renewed(page: str, text: str) -> str:
    """Return the text of a page with its generated part made again.

    Raises `ValueError` if the page does not have the markers of the part exactly once.
    """
    name, make = PAGES[page]
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    text, count = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}{make()}{end}", text, flags=re.DOTALL)
    if count != 1:
        message = f"{page}: expected one part between {begin.strip()} and {end}, found {count}"
        raise ValueError(message)
    return text


def main(root: Path = ROOT) -> None:
    """Renew every page in the checkout `root`."""
    if not (root / "ops").is_dir():
        sys.exit(f"{root} is not a checkout: it has no folder ops")
    for page in PAGES:
        path = root / page
        path.write_text(renewed(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
