"""`produce`: publish records from a file."""

from pathlib import Path
from typing import Any

import click

from worker.commands.options import TEXT, checked_rate, config_option, headers_option, load_settings, prepare_client
from worker.commands.signals import stop_on_signals

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@config_option
@click.option("--topic", type=TEXT, help="Publish to this topic. Needed where there are several routes.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "base64", "msgpack"]),
    help="How vectors are written. Without it: base64 for long vectors, which costs the worker half; else json.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]),
    default="lz4",
    show_default=True,
    help="The codec of the record batches.",
)
@click.option("--rate", type=float, callback=checked_rate, default=0.0, help="Records a second. Without it: no limit.")
@click.option("--skip-bad", is_flag=True, help="Leave bad records out, instead of ending at the first one.")
@click.option(
    "--bad-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --skip-bad: add the bad records to this file.",
)
@click.option("--start-line", type=click.IntRange(min=1), default=1, help="Begin at this line or row, from 1.")
@click.option("--tombstones", type=_FILE, help="Publish a null value for each key of this file, one a line.")
@click.option("--keys", type=_FILE, help="The keys of an .npy file, one a line.")
@click.option("--key-column", type=TEXT, default="key", show_default=True, help="Parquet: the column of the keys.")
@click.option(
    "--vector-column", type=TEXT, default="vector", show_default=True, help="Parquet: the column of the vectors."
)
@click.option(
    "--metadata-column",
    type=TEXT,
    multiple=True,
    help="Parquet: a column of metadata; may be given several times. Without it: every other column, or those that records.fields.metadata names.",
)
@headers_option("Send this header with every record, for index_by; may be given several times.")
@click.option("--dry-run", is_flag=True, help="Judge every record, and publish nothing.")
def command(file: str | None, config_file: Path | None, tombstones: Path | None, **given: Any) -> None:
    """Publish records from a file.

    FILE has a JSON record in each line (also .gz; - is standard input), or is a Parquet file (needs the extra "parquet"),
    an .npz file with the arrays keys and vectors, or an .npy file with --keys. Rows of a table become records of the shape
    that the topic has (records.fields); so do lines where the value is a vector and nothing else. Every record is judged
    as the worker judges it, and published under its vector's key, acknowledged by all replicas. At the first bad record
    it ends, with exit code 1 and the record's number; what came before is sent and counted.

    Whenever it ends early, also by Ctrl-C, its last line says with which --start-line to continue. After a kill, begin
    again: publishing a record twice does no harm. Memory does not grow with the file.

    \b
    Would my records be accepted? All of them are judged, none is sent:
    oss-vectors-worker produce records.jsonl --dry-run --skip-bad

    \b
    oss-vectors-worker produce records.jsonl
    oss-vectors-worker produce records.jsonl --skip-bad --bad-file bad.jsonl
    oss-vectors-worker produce records.jsonl --start-line 1001 --rate 500
    zstdcat records.jsonl.zst | oss-vectors-worker produce -
    oss-vectors-worker produce records.parquet --key-column id --metadata-column title
    oss-vectors-worker produce vectors.npy --keys keys.txt
    oss-vectors-worker produce --tombstones keys.txt
    """
    if (file is None) == (tombstones is None):
        raise click.UsageError("give FILE, or --tombstones, and not both")
    if given["bad_file"] is not None and not given["skip_bad"]:
        raise click.UsageError("--bad-file needs --skip-bad: without it the first bad record ends the run")
    loaded = load_settings(config_file)
    prepare_client()

    from worker.tools.produce.run import Options, run  # noqa: PLC0415 - loads the clients

    run(loaded, Options.of(file=file, tombstones=tombstones, **given), stop_on_signals())
