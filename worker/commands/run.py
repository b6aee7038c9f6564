"""`run`: the worker itself."""

import os
import signal
from pathlib import Path
from types import FrameType

import click

from worker.app import runtime
from worker.app.stop import Stop
from worker.commands.exit_codes import SIGNAL_BASE
from worker.commands.options import config_option, load_settings


@click.command()
@config_option
def command(config_file: Path | None) -> None:
    """Run the worker until SIGTERM or SIGINT.

    On the signal it stops reading, sends what it holds, commits, and exits with 0. A second signal ends it at once.

    \b
    oss-vectors-worker run --config worker.toml
    OSS_VECTORS_CONFIG=worker.toml OSS_VECTORS_LOG__LEVEL=debug oss-vectors-worker run
    """
    stop = Stop()
    _stop_on_signals(stop)
    with runtime.prepared():
        from worker.app import wiring  # noqa: PLC0415 - loads the clients, which must find the process prepared
        from worker.telemetry import log  # noqa: PLC0415 - likewise

        loaded = load_settings(config_file, to_run=True)
    log.configure(loaded.settings.log)
    wiring.run(loaded, stop, os.environ)


def _stop_on_signals(stop: Stop) -> None:
    """Let the first signal set `stop`. A second one ends the process at once: what was not committed is read again."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(SIGNAL_BASE + number)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
