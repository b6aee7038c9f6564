"""One run of `produce`: from the file to the topic, and what is said of it."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self

import click

from worker.app.stop import Stop
from worker.errors import FatalError
from worker.settings.load import Loaded
from worker.settings.tables import Route
from worker.tools import judge
from worker.tools.produce import columns, rows
from worker.tools.produce.forms import default_form
from worker.tools.produce.publish import Bad, Judge, Publisher, make_producer
from worker.tools.progress import Progress
from worker.words import clean

_BAD_SHOWN: Final = 20  # of the rows that `--skip-bad` passes over


class Options(NamedTuple):
    """What was asked for."""

    file: str | None
    topic: str | None
    form: str | None
    compression: str
    rate: float
    skip_bad: bool
    bad_file: Path | None
    start_line: int
    tombstones: Path | None
    keys: Path | None
    columns: columns.Columns
    dry_run: bool

    @classmethod
    def of(cls, *, key_column: str, vector_column: str, metadata_column: Sequence[str], **given: Any) -> Self:
        """Return them from the options of the command, by their names."""
        named = columns.Columns(key_column, vector_column, metadata_column or None)
        return cls(columns=named, **given)


class _FirstBad(FatalError):
    """The first bad row, which ends it without `--skip-bad`."""


def run(loaded: Loaded, options: Options, stop: Stop) -> None:
    """Publish. Raises `FatalError` with the reason; what was sent before is acknowledged and counted."""
    settings = loaded.settings
    route = judge.route_of(settings, options.topic)
    source = _rows(options)
    target = judge.target_of(route, settings, os.environ)
    form = options.form or default_form(target.dimension, settings.records.format)
    judged = Judge(
        judge.decoder_of(target, settings, record_format="json"),
        judge.decoder_of(target, settings),
        form=form,
        key_format=settings.records.key_format,
    )
    with ExitStack() as stack:
        on_bad = _bad_rows(options, source.unit, stack)
        if options.dry_run:
            sender: Any = _NoSender()
        else:
            compression = None if options.compression == "none" else options.compression
            sender = stack.enter_context(closing(make_producer(settings.kafka, compression=compression)))
        left = None if source.total is None else max(0, source.total - options.start_line + 1)
        label = "checked" if options.dry_run else "published"
        progress = stack.enter_context(Progress(label, left))
        publisher = Publisher(
            sender,
            route.topic,
            judged,
            first=options.start_line,
            rate=0.0 if options.dry_run else options.rate,
            is_stopping=stop.is_set,
            wait=stop.wait,
            on_bad=on_bad,
            on_sent=progress.step,
        )
        failure: FatalError | None = None
        try:
            publisher.run(source.read(options.start_line))
        except FatalError as error:
            failure = error
    _say(publisher, route, source.unit, form, options)
    if failure is not None:
        resume = f"continue with --start-line {publisher.resume_at}"
        raise FatalError(f"{failure}; {resume}" if not isinstance(failure, _FirstBad) else str(failure)) from failure
    if stop.is_set():
        raise FatalError(f"stopped by a signal: continue with --start-line {publisher.resume_at}")


class _NoSender:
    """Takes the place of the producer with `--dry-run`."""

    class _Done(NamedTuple):
        is_done: bool = True
        value: Any = None

        def get(self, timeout: float) -> Any:  # noqa: ARG002 - a future's form
            return self.value

        def succeeded(self) -> bool:
            return True

    class _Place(NamedTuple):
        partition: int = -1

    def send(self, topic: str, *, key: bytes, value: bytes | None) -> Any:  # noqa: ARG002 - a producer's form
        """Do nothing."""
        return self._Done(value=self._Place())


def _rows(options: Options) -> rows.Rows:
    if options.tombstones is not None:
        return rows.tombstones(options.tombstones)
    if options.file in (None, "-"):
        return rows.json_lines(None, sys.stdin.buffer)
    path = Path(str(options.file))
    readers = {
        ".parquet": lambda: columns.parquet(path, options.columns),
        ".npy": lambda: columns.npy(path, options.keys),
    }
    readers[".npz"] = lambda: columns.npz(path)
    return readers.get(path.suffix.lower(), lambda: rows.json_lines(path, sys.stdin.buffer))()


def _bad_rows(options: Options, unit: str, stack: ExitStack) -> Any:
    """Return what is done with a bad row."""
    file: IO[bytes] | None = None
    if options.bad_file is not None:
        file = stack.enter_context(options.bad_file.open("wb"))
    shown: Counter[str] = Counter()

    def on_bad(bad: Bad) -> None:
        told = f"{unit} {bad.row.number}: {bad.error.reason.value}: {clean(bad.error.message, 500)}"
        if not options.skip_bad:
            raise _FirstBad(
                f"{told}. Correct it and continue with --start-line {bad.row.number}, or leave bad records out with --skip-bad"
            )
        shown["bad"] += 1
        if shown["bad"] <= _BAD_SHOWN:
            click.echo(told, err=True)
        if file is not None:
            file.write((bad.row.value if bad.row.value is not None else (bad.row.key or "").encode()) + b"\n")

    return on_bad


def _say(publisher: Publisher, route: Route, unit: str, form: str, options: Options) -> None:
    """Print what became of the file."""
    count = publisher.acknowledged
    if options.dry_run:
        click.echo(
            f"{count} records would be accepted by the worker and written to index {route.index}; nothing was sent"
        )
    else:
        click.echo(f"{count} records sent to {route.topic} as {form}, all acknowledged")
        if count:
            shares = ", ".join(f"{number}: {n}" for number, n in sorted(publisher.partitions.items()))
            click.echo(f"by partition (murmur2 of the key, as Java's producers choose it): {shares}")
    if publisher.bad:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in publisher.bad.most_common())
        where = f", written to {options.bad_file}" if options.bad_file else ""
        click.echo(f"{publisher.bad.total()} bad {unit}s left out: {reasons}{where}", err=True)
