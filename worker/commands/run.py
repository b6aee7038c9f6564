"""`run`: the worker itself."""

import os
from pathlib import Path

import click

from worker.app import runtime
from worker.commands.options import check_client, config_option, load_settings
from worker.commands.signals import stop_on_signals


@click.command()
@config_option
def command(config_file: Path | None) -> None:
    """Run the worker until SIGTERM or SIGINT.

    On the signal it stops reading, sends what it holds, commits, and exits with 0. A second signal ends it at once.

    \b
    oss-vectors-worker run --config worker.toml
    OSS_VECTORS_CONFIG=worker.toml OSS_VECTORS_LOG__LEVEL=debug oss-vectors-worker run
    """
    stop = stop_on_signals()
    with runtime.prepared():
        check_client()
        from worker.app import wiring  # noqa: PLC0415 - loads the clients, which must find the process prepared
        from worker.telemetry import log  # noqa: PLC0415 - likewise

        loaded = load_settings(config_file, to_run=True)
    log.configure(loaded.settings.log)
    wiring.run(loaded, stop, os.environ)
