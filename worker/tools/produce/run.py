"""One run of `produce`: from the file to the topic, and what is said of it."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self

import click

from worker.app.decoders import options_of
from worker.app.several import cutter_of
from worker.app.stop import Stop
from worker.errors import FatalError
from worker.records.formats.contract import Options as Shaping
from worker.records.formats.paths import Path as PathOfMap
from worker.records.target import Target
from worker.settings.load import Loaded
from worker.settings.tables import Records, Route, Settings
from worker.tools import judge
from worker.tools.produce import arrays, columns, lines
from worker.tools.produce.forms import AS_IN_FILE, check_form, default_form
from worker.tools.produce.publish import Bad, Judge, Makes, Publisher, make_producer
from worker.tools.produce.rows import Rows
from worker.tools.produce.shaped import Shaped
from worker.tools.progress import Progress
from worker.tools.scan import Scanner
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
    headers: Sequence[tuple[str, bytes]] = ()

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
    records = settings.records_of(route.topic)
    shape = options_of(records)
    is_shaped = _is_shaped(options, shape)
    _check_form(options, route, records, shape, is_shaped=is_shaped)
    source = _rows(_with_known_columns(options, shape), stop)
    targets = judge.targets_of(route, settings, os.environ)
    form = _form(options, records, shape, targets, is_shaped=is_shaped)
    judged = _maker(options, route, settings, targets, form, shape if is_shaped else None)
    with ExitStack() as stack:
        on_bad = _bad_rows(options, source.unit, stack)
        sender = stack.enter_context(_sender(settings, route, options))
        left = None if source.total is None else max(0, source.total - options.start_line + 1)
        label = "checked" if options.dry_run else "published"
        progress = stack.enter_context(Progress(label, left))

        def on_bad_row(bad: Bad) -> None:
            on_bad(bad)
            progress.step()

        publisher = Publisher(
            sender,
            route.topic,
            judged,
            first=options.start_line,
            rate=0.0 if options.dry_run else options.rate,
            is_stopping=stop.is_set,
            wait=stop.wait,
            on_bad=on_bad_row,
            on_sent=progress.step,
            unit=source.unit,
        )
        failure: FatalError | None = None
        try:
            publisher.run(source.read(options.start_line))
        except FatalError as error:
            failure = error
    _say(publisher, route, source, form, options)
    if isinstance(failure, _FirstBad):
        raise failure
    if failure is not None:
        raise FatalError(f"{failure}; continue with --start-line {publisher.resume_at}") from failure
    if stop.is_set():
        raise FatalError(f"stopped by a signal: continue with --start-line {publisher.resume_at}")


def _is_shaped(options: Options, shape: Shaping) -> bool:
    """Return whether rows of the service's own shape become records of the topic's. Lines have that shape already."""
    is_table = Path(options.file or "").suffix.lower() in (".parquet", ".npy", ".npz")
    return not shape.is_fixed and options.tombstones is None and (is_table or shape.shape.is_vector_alone)


def _check_form(options: Options, route: Route, records: Records, shape: Shaping, *, is_shaped: bool) -> None:
    """Raise `FatalError` where the file cannot be published in the form that the route reads."""
    own_shape = f"the records of topic {route.topic} have a shape of their own (records.fields)"
    if options.form is not None and shape.shape.is_vector_alone:
        raise FatalError(f"the records of topic {route.topic} are the bytes of vectors: leave out --format")
    if options.form is not None and not shape.is_fixed and not is_shaped:
        raise FatalError(f"{own_shape}, and are published as the file has them: leave out --format")
    if is_shaped and (records.envelope != "none" or records.many != "reject"):
        raise FatalError(f"{own_shape}, in an envelope or a list: write the file as JSON Lines in that shape")
    if not shape.is_fixed and not is_shaped and options.tombstones is None and records.format == "msgpack":
        raise FatalError(f'records.format of topic {route.topic} is "msgpack", and its shape is not that of produce')
    if options.form is not None:
        check_form(options.form, records.format)


def _form(options: Options, records: Records, shape: Shaping, targets: Sequence[Target], *, is_shaped: bool) -> str:
    """Return the form in which records are written, "" for that of the file."""
    if is_shaped and shape.shape.is_vector_alone:
        return f"bytes of {records.vector_bytes}"
    if is_shaped:
        return options.form or ("msgpack" if records.format == "msgpack" else "json")
    if not shape.is_fixed:
        return AS_IN_FILE
    return options.form or default_form(max(target.dimension for target in targets), records.format)


def _maker(
    options: Options, route: Route, settings: Settings, targets: Sequence[Target], form: str, shape: Shaping | None
) -> Makes:
    """Return what makes messages of rows. `shape` is that of the topic's records where rows have another one."""
    of_topic = judge.router_for(route, targets, settings)
    judged = Judge(
        judge.router_for(route, targets, settings, record_format="json"),
        of_topic,
        form=AS_IN_FILE if shape else form,
        key_format=settings.records_of(route.topic).key_format,
        headers=options.headers,
        cutter=cutter_of(route, settings),
    )
    return Shaped(judged, of_topic, shape, form=form, headers=options.headers) if shape else judged


def _with_known_columns(options: Options, shape: Shaping) -> Options:
    """Return the options with the names of metadata that the topic's records have, where those are known."""
    named = shape.shape.metadata
    if isinstance(named, PathOfMap):
        return options
    return options._replace(columns=options.columns._replace(known=[name for name, _ in named or ()]))


@contextmanager
def _sender(settings: Settings, route: Route, options: Options) -> Iterator[Any]:
    """Yield what sends. Raises `FatalError` where the topic is not there: some brokers would make it."""
    if options.dry_run:
        yield _NoSender()
        return
    with Scanner(settings.kafka) as scanner:
        scanner.partitions(route.topic)
    compression = None if options.compression == "none" else options.compression
    with closing(make_producer(settings, compression=compression)) as producer:
        yield producer


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

    def send(self, topic: str, *, key: bytes, value: bytes | None, **headers: Any) -> Any:  # noqa: ARG002 - a producer's form
        """Do nothing."""
        return self._Done(value=self._Place())


def _rows(options: Options, stop: Stop) -> Rows:
    if options.tombstones is not None:
        return lines.tombstones(options.tombstones, stop.is_set)
    if options.file in (None, "-"):
        # Python has no stdin where the descriptor was closed when it started.
        stdin = None if sys.stdin is None else lines.pipe(sys.stdin.fileno(), stop.is_set)
        return lines.json_lines(None, stdin, stop.is_set)
    path = Path(str(options.file))
    readers = {
        ".parquet": lambda: columns.parquet(path, options.columns),
        ".npy": lambda: arrays.npy(path, options.keys),
        ".npz": lambda: arrays.npz(path),
    }
    return readers.get(path.suffix.lower(), lambda: lines.json_lines(path, None, stop.is_set))()


def _bad_rows(options: Options, unit: str, stack: ExitStack) -> Callable[[Bad], None]:
    """Return what is done with a bad row."""
    path = options.bad_file
    file = None if path is None else stack.enter_context(_bad_file(path, options.file))
    count = itertools.count(1)

    def on_bad(bad: Bad) -> None:
        told = f"{unit} {bad.row.number}: {bad.error.reason.value}: {clean(bad.error.message, 500)}"
        if not options.skip_bad:
            raise _FirstBad(
                f"{told}. Correct it and continue with --start-line {bad.row.number}, or leave bad records out with --skip-bad"
            )
        if next(count) <= _BAD_SHOWN:
            click.echo(told, err=True)
        if file is not None:
            value = bad.row.value if bad.row.value is not None else (bad.row.key or "").encode()
            try:
                file.write(value + b"\n")
            except OSError as error:
                what = f"bad {unit} {bad.row.number} cannot be written to {path}: {error.strerror}"
                raise FatalError(what) from error

    return on_bad


def _bad_file(path: Path, source: str | None) -> IO[bytes]:
    """Open the file of bad records, without a buffer: what was written is in it. Raises `FatalError`.

    It is added to, so that a run that resumes keeps what the one before it found.
    """
    if source not in (None, "-") and path.exists() and path.samefile(str(source)):
        raise FatalError(f"{path} is the file that is read: name another one with --bad-file")
    try:
        return path.open("ab", buffering=0)
    except OSError as error:
        raise FatalError(f"{path} cannot be written: {error.strerror}; name another file with --bad-file") from error


def _say(publisher: Publisher, route: Route, source: Rows, form: str, options: Options) -> None:
    """Print what became of the file."""
    count, unit = publisher.acknowledged, source.unit
    if source.total is not None and options.start_line > source.total:
        click.echo(f"--start-line {options.start_line} is behind the last {unit}, which is {source.total}", err=True)
    if options.dry_run:
        click.echo(
            f"{count} records would be accepted by the worker and written to index {', '.join(route.index_names)}; nothing was sent"
        )
    else:
        how = f"as {form}" if form else "as the file has them"
        click.echo(f"{count} records sent to {route.topic} {how}, all acknowledged")
        if count:
            shares = ", ".join(f"{number}: {n}" for number, n in sorted(publisher.partitions.items()))
            click.echo(f"by partition (murmur2 of the key, as Java's producers choose it): {shares}")
    if publisher.bad and options.skip_bad:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in publisher.bad.most_common())
        where = f", written to {options.bad_file}" if options.bad_file else ""
        bad = publisher.bad.total()
        click.echo(f"{bad} bad {unit}{'s' if bad > 1 else ''} left out: {reasons}{where}", err=True)
