"""`demo`: the whole chain on this machine."""

import click

from worker.extras import import_with_extra


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running and print the addresses, until Ctrl-C.")
def command(keep: bool) -> None:
    """Try the whole chain on this machine.

    Starts Apache Kafka, the emulator of the OSS vector service and the worker, publishes real embeddings, and asks the index for the nearest neighbours of three sentences. Needs the extra "demo".

    \b
    oss-vectors-worker demo
    oss-vectors-worker demo --keep
    """
    import_with_extra("worker.local.demo", "demo").run(keep=keep)
