"""The commands."""

from pathlib import Path

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="oss-vectors-worker")
def main() -> None:
    """Write vector records from Kafka topics to indexes of an Alibaba Cloud OSS vector bucket."""


@main.group()
def local() -> None:
    """The stack on this machine: Apache Kafka and the OSS vector service's emulator."""


@local.command("emulator")
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="0 takes a free one.")
@click.option("--data", type=click.Path(dir_okay=True, file_okay=False, path_type=Path), help="Keep the data in DIR.")
def local_emulator(port: int, data: Path | None) -> None:
    """Run the OSS vector service's emulator on 127.0.0.1 until SIGTERM or SIGINT."""
    from worker.local import emulator  # noqa: PLC0415 - the extra `demo` is needed by the local commands alone

    emulator.run(port=port, data=data)


@local.command("broker")
@click.option("--port", type=click.IntRange(0, 65535), default=9092, show_default=True, help="0 takes a free one.")
@click.option("--data", type=click.Path(dir_okay=True, file_okay=False, path_type=Path), help="Keep the data in DIR.")
def local_broker(port: int, data: Path | None) -> None:
    """Run Apache Kafka on 127.0.0.1 until SIGTERM or SIGINT."""
    from worker.local import broker  # noqa: PLC0415 - the extra `demo` is needed by the local commands alone

    broker.run(port=port, data=data)
