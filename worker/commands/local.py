"""`local`: Apache Kafka, and the emulator of the OSS vector service, on this machine."""

from collections.abc import Callable
from pathlib import Path

import click

from worker.extras import import_with_extra


@click.group()
def command() -> None:
    """Run Kafka or the OSS emulator locally.

    Each runs on 127.0.0.1 until SIGTERM or SIGINT. They need the extra "demo".

    \b
    oss-vectors-worker local broker &
    oss-vectors-worker local emulator --port 0
    """


def _stack_options(port: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def add(to: Callable[..., None]) -> Callable[..., None]:
        path = click.Path(file_okay=False, path_type=Path)
        to = click.option("--data", type=path, metavar="DIR", help="Keep the data in DIR. Without it: until the end.")(
            to
        )
        number = click.IntRange(0, 65535)
        return click.option(
            "--port", type=number, default=port, show_default=True, help="Listen on it. 0: a free one, printed."
        )(to)

    return add


@command.command("emulator")
@_stack_options(9000)
def emulator(port: int, data: Path | None) -> None:
    """Run the emulator of the OSS vector service.

    \b
    oss-vectors-worker local emulator --data ./oss
    """
    import_with_extra("worker.local.emulator", "demo").run(port=port, data=data)


@command.command("broker")
@_stack_options(9092)
def broker(port: int, data: Path | None) -> None:
    """Run Apache Kafka: one broker, in KRaft mode.

    \b
    oss-vectors-worker local broker --port 0
    """
    import_with_extra("worker.local.broker", "demo").run(port=port, data=data)
