"""Prometheus and Alertmanager as shipped, but for the addresses of the targets and of the receivers."""

import http.server
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.bounded import join, running, thread
from tests.support.worker import free_port, wait_for
from tests.troubles.case import Case

OPS: Final = Path(__file__).parents[2] / "ops"
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Message:
    """What a receiver got. `alerts` are Alertmanager's own."""

    at: float
    receiver: str
    alerts: Sequence[dict[str, Any]]


@dataclass
class Monitoring:
    """Where Prometheus and Alertmanager answer, and what the receivers got."""

    prometheus: str
    alertmanager: str
    messages: list[Message] = field(default_factory=list)

    def firing(self) -> set[tuple[str, str]]:
        """(job, alert) of all that fire now; the job is "" where an alert has none."""
        found = _json(f"{self.prometheus}/api/v1/alerts")["data"]["alerts"]
        return {(one["labels"].get("job", ""), one["labels"]["alertname"]) for one in found if one["state"] == "firing"}

    def suppressed(self) -> set[tuple[str, str]]:
        """(job, alert) of those whose every instance is silenced by another alert."""
        found = _json(f"{self.alertmanager}/api/v2/alerts")
        states: dict[tuple[str, str], set[str]] = {}
        for one in found:
            labels = one["labels"]
            states.setdefault((labels.get("job", ""), labels["alertname"]), set()).add(one["status"]["state"])
        return {key for key, seen in states.items() if seen == {"suppressed"}}


def _json(url: str) -> Any:
    with _OPENER.open(url, timeout=10) as answer:
        return json.load(answer)


def _answers(url: str) -> bool:
    try:
        with _OPENER.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def running_monitoring(folder: Path, cases: Sequence[Case], scrape_seconds: float) -> Iterator[Monitoring]:
    """Start both with the project's own rules, route and inhibitions."""
    prometheus, alertmanager = free_port(), free_port()
    monitoring = Monitoring(f"http://127.0.0.1:{prometheus}", f"http://127.0.0.1:{alertmanager}")
    with ExitStack() as stack:
        receiver = stack.enter_context(_receiver(monitoring.messages))
        configs = {
            "prometheus": _prometheus_config(folder, cases, scrape_seconds, prometheus, alertmanager),
            "alertmanager": _alertmanager_config(receiver),
        }
        for name, config in configs.items():
            (folder / f"{name}.yml").write_text(yaml.safe_dump(config))
        commands = [
            [
                shutil.which("alertmanager") or "prometheus-alertmanager",
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            ],
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            ],
        ]
        for command in commands:
            out = stack.enter_context((folder / f"{command[0]}.log").open("wb"))
            stack.enter_context(running(command, stdout=out, stderr=subprocess.STDOUT))
        for base in (monitoring.prometheus, monitoring.alertmanager):
            wait_for(lambda base=base: _answers(f"{base}/-/ready"), f"{base} answers")  # type: ignore[misc]  # of this turn
        yield monitoring


def _prometheus_config(
    folder: Path, cases: Sequence[Case], scrape_seconds: float, own_port: int, alertmanager: int
) -> dict[str, Any]:
    jobs = [
        {
            "job_name": case.job,
            "file_sd_configs": [{"files": [str(folder / f"{case.job}.targets.json")], "refresh_interval": "5s"}],
        }
        for case in cases
    ]
    every = f"{scrape_seconds:g}s"
    return {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": [str(OPS / "prometheus/rules/*.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
        "scrape_configs": [
            *jobs,
            {"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{own_port}"]}]},
        ],
    }


def _alertmanager_config(receiver_port: int) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((OPS / "alertmanager/alertmanager.yml").read_text(encoding="utf-8"))
    config["receivers"] = [
        {
            "name": one["name"],
            "webhook_configs": [
                {"url": f"http://127.0.0.1:{receiver_port}/{urllib.parse.quote(one['name'])}", "send_resolved": True}
            ],
        }
        for one in config["receivers"]
    ]
    return config


@contextmanager
def _receiver(messages: list[Message]) -> Iterator[int]:
    """A server that keeps what Alertmanager sends; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            messages.append(Message(time.time(), self.path.strip("/"), body["alerts"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = thread(server.serve_forever, name="receiver")
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        join(serving)
