"""One run of `check`: all sections, and what is printed."""

import json
import os
import sys
from collections.abc import Mapping
from functools import partial

import click

from worker.settings.load import Loaded
from worker.tools.check.cluster import bootstrap_server, cluster
from worker.tools.check.memory import memory
from worker.tools.check.registry import registry
from worker.tools.check.report import Finding, Status, as_line, as_summary, worst
from worker.tools.check.report import as_json as report_of
from worker.tools.check.routes import routes
from worker.tools.check.run import Section, findings
from worker.tools.check.sample import From, sample
from worker.tools.check.service import service


def run(loaded: Loaded, *, as_json: bool, count: int | None, begin: From) -> bool:
    """Try everything and print it; return whether there is a fault."""
    found: list[Finding] = []
    for finding in findings(sections(loaded, os.environ, count=count, begin=begin)):
        found.append(finding)
        if not as_json:
            click.echo(as_line(finding))
    click.echo(json.dumps(report_of(found)) if as_json else as_summary(found))
    sys.stdout.flush()
    return worst(found) is Status.FAULT


def sections(
    loaded: Loaded, environ: Mapping[str, str], *, count: int | None = None, begin: From = "latest"
) -> dict[str, Section]:
    """Return all sections, in the order in which they are reported."""
    settings = loaded.settings
    found: dict[str, Section] = {
        "settings": partial(routes, loaded),
        "memory": partial(memory, settings),
    }
    # A section for each server, so that one that swallows everything does not hide the others.
    for server in dict.fromkeys(settings.kafka.bootstrap_servers):
        found[f"kafka at {server}"] = partial(bootstrap_server, settings.kafka, server)
    found["kafka"] = partial(cluster, settings)
    found["service"] = partial(service, settings, environ)
    if settings.registry.url:
        found["registry"] = partial(registry, settings.registry)
    if count is not None:
        found["sample"] = partial(sample, settings, environ, count, begin)
    return found
