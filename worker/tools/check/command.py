"""One run of `check`: all sections, and what is printed."""

import json
import os
import sys

import click

from worker.settings.load import Loaded
from worker.tools.check.cluster import cluster
from worker.tools.check.memory import memory, routes
from worker.tools.check.report import Finding, Status, as_line, worst
from worker.tools.check.report import as_json as report_of
from worker.tools.check.run import Section, findings
from worker.tools.check.sample import sample
from worker.tools.check.service import service


def run(loaded: Loaded, *, as_json: bool, count: int | None, begin: str) -> bool:
    """Try everything and print it; return whether there is a fault."""
    settings = loaded.settings
    sections: dict[str, Section] = {
        "settings": lambda: routes(settings),
        "memory": lambda: memory(settings),
        "kafka": lambda: cluster(settings),
        "service": lambda: service(settings, os.environ),
    }
    if count is not None:
        sections["sample"] = lambda: sample(settings, os.environ, count, begin)  # type: ignore[arg-type]  # click's choice
    found = []
    for finding in findings(sections):
        found.append(finding)
        if not as_json:
            click.echo(as_line(finding))
    _print_end(found, as_json=as_json)
    sys.stdout.flush()
    return worst(found) is Status.FAULT


def _print_end(found: list[Finding], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report_of(found)))
        return
    faults = sum(one.status is Status.FAULT for one in found)
    warnings = sum(one.status is Status.WARNING for one in found)
    click.echo(f"{len(found)} checks: {faults} faults, {warnings} warnings")
