"""`schema`: the JSON Schema of a record."""

import json

import click

from worker.records.schema import record_schema


@click.command()
def command() -> None:
    """Print the JSON Schema of a record's value.

    \b
    oss-vectors-worker schema > record.schema.json
    """
    click.echo(json.dumps(record_schema(), indent=2))
