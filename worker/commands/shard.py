"""`shard`: the index that a key goes to."""

from pathlib import Path

import click

from worker.commands.options import TEXT, config_option, headers_option, load_settings


@click.command()
@click.argument("key", type=TEXT)
@config_option
@click.option("--topic", type=TEXT, help="Of the route of this topic. Needed where there are several routes.")
@headers_option("A header of the record.")
def command(key: str, config_file: Path | None, topic: str | None, headers: list[tuple[str, bytes]]) -> None:
    """Print the index that a key goes to.

    KEY is the vector's key. With index_by = "key" the key chooses the shard; ops/records.md has test vectors for other
    languages. With index_by = "header:NAME" the header of --header chooses it. A field is in the value, which the key does
    not tell.

    \b
    oss-vectors-worker shard doc-1
    oss-vectors-worker shard doc-1 --topic vectors --header tenant=acme
    """
    loaded = load_settings(config_file)

    from worker.app.routers import router_of  # noqa: PLC0415 - loads the decoder
    from worker.errors import FatalError  # noqa: PLC0415 - with it
    from worker.tools.judge import route_of  # noqa: PLC0415 - likewise

    route = route_of(loaded.settings, topic)
    index = router_of(route, loaded.settings).index_of(key, key.encode(), b"", headers)
    if index is None or (route.index_by.startswith("field:") and not route.index_by.startswith("field:$")):
        raise FatalError(
            f"index_by = {route.index_by!r} of topic {route.topic} chooses the index, and not the key alone"
        )
    click.echo(index)
