"""The settings: a TOML file and the environment, frozen, every mistake told at once.

Each setting's type, bounds, default and meaning stand here once; `oss-vectors-worker config --example` and the README
show them from here. Nothing is read at import.
"""

import difflib
import ipaddress
import json
import math
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NoReturn, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from worker import files, redaction, setting_text
from worker.errors import SettingsError
from worker.redaction import HIDDEN
from worker.words import clean

ENV_PREFIX: Final = "OSS_VECTORS_"
CONFIG_VARIABLE: Final = "OSS_VECTORS_CONFIG"
SECRET_VARIABLES: Final = ("OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN")
CREDENTIAL_VARIABLES: Final = ("OSS_ACCESS_KEY_ID", *SECRET_VARIABLES)
SECRETS: Final = frozenset(
    {
        *("kafka.sasl_plain_password", "kafka.ssl_password", "kafka.client", "oss.proxy_url"),
        "oss.credentials_process",  # a command line may hold what it signs in with
    }
)

_YEAR: Final = 31_536_000  # seconds; the system's waits end in an overflow, which infinity would be
_MOST_A_SECOND: Final = 1e9
_INT32: Final = 2**31 - 1  # Kafka's protocol has no more for a time
_MOST_COUNTED: Final = 10_000_000
_MOST_BYTES: Final = 2**50
_SHOWN_CHARACTERS: Final = 200  # of a wrong value
_MISTAKE_CHARACTERS: Final = 2000

Seconds = Annotated[float, Meta(gt=0, le=_YEAR)]
Index = Annotated[str, Meta(pattern="^[A-Za-z][A-Za-z0-9]{0,62}\\Z")]
Metric = Literal["", "cosine", "euclidean"]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of settings."""


class Route(Table, frozen=True):
    """Which topic goes to which index."""

    topic: Annotated[str, Meta(min_length=1, max_length=249, description="the topic to read")]
    index: Annotated[Index, Meta(description="the index to write to: a letter, then letters and digits, at most 63")]
    dimension: Annotated[
        int,
        Meta(ge=0, le=4096, description="numbers in a vector; 0 asks the service at start, otherwise taken as given"),
    ] = 0
    distance_metric: Annotated[
        Metric, Meta(description='"cosine" or "euclidean"; "" asks the service at start, otherwise taken as given')
    ] = ""
    non_filterable_metadata_keys: Annotated[
        tuple[str, ...], Meta(description="metadata keys that do not count as filterable; [] asks the service at start")
    ] = ()


class Kafka(Table, frozen=True):
    """The brokers and the consumer group."""

    bootstrap_servers: Annotated[tuple[str, ...], Meta(min_length=1, description="host:port of some brokers")] = (
        "localhost:9092",
    )
    group_id: Annotated[str, Meta(min_length=1, description="the consumer group")] = "oss-vectors-worker"
    client_id: Annotated[str, Meta(min_length=1, description="what the brokers' logs call this client")] = (
        "oss-vectors-worker"
    )
    group_instance_id: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9._-]{0,249}\\Z",
            description="static membership: one value for each replica, kept over its restarts",
        ),
    ] = ""
    auto_offset_reset: Annotated[
        Literal["earliest", "none", "latest"],
        Meta(
            description="where a partition without a committed offset begins; none blocks it until one is set by hand"
        ),
    ] = "earliest"
    isolation_level: Annotated[
        Literal["read_committed", "read_uncommitted"],
        Meta(description="whether records of open and aborted transactions are read"),
    ] = "read_committed"
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Meta(description="how to talk to the brokers")
    ] = "PLAINTEXT"
    ssl_cafile: Annotated[str, Meta(description="certificates to trust, PEM")] = ""
    ssl_certfile: Annotated[str, Meta(description="the client's certificate, PEM")] = ""
    ssl_keyfile: Annotated[str, Meta(description="the client's key, PEM")] = ""
    ssl_password: Annotated[str, Meta(description="the password of the client's key")] = ""
    sasl_mechanism: Annotated[
        Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "AWS_MSK_IAM"],
        Meta(description="how to log in, with SASL_PLAINTEXT and SASL_SSL"),
    ] = ""
    sasl_plain_username: Annotated[str, Meta(description="the user, for PLAIN and SCRAM")] = ""
    sasl_plain_password: Annotated[str, Meta(description="the password, for PLAIN and SCRAM")] = ""
    session_timeout_ms: Annotated[
        int,
        Meta(ge=1000, le=_INT32, description="after so long without a heartbeat the group goes on without this member"),
    ] = 45000
    max_poll_interval_ms: Annotated[
        int, Meta(ge=1000, le=_INT32, description="after so long without a poll the group goes on without this member")
    ] = 300000
    commit_interval_seconds: Annotated[Seconds, Meta(description="how often offsets are committed")] = 1.0
    revoke_seconds: Annotated[Seconds, Meta(description="how long a rebalance may wait for what is in flight")] = 15.0
    client: Annotated[
        dict[str, Any],
        Meta(description="anything else of kafka-python's KafkaConsumer and KafkaProducer, as it stands"),
    ] = msgspec.field(default_factory=dict)


class Oss(Table, frozen=True):
    """The vector bucket."""

    region: Annotated[str, Meta(pattern="^[a-z0-9-]+\\Z", description='the bucket\'s region, such as "cn-hangzhou"')]
    bucket: Annotated[
        str,
        Meta(
            pattern="^[a-z0-9]([a-z0-9-]{1,30})[a-z0-9]\\Z",
            description="the bucket: 3 to 32 of a-z, 0-9 and -, no - at either end",
        ),
    ]
    account_id: Annotated[
        str, Meta(pattern="^[0-9]+\\Z", description="the id of the account that owns the bucket, digits")
    ]
    endpoint: Annotated[
        str,
        Meta(
            description='"" is the region\'s public endpoint; else https://..., or http://127.0.0.1:9000 for a local stack'
        ),
    ] = ""
    allow_http: Annotated[bool, Meta(description="plain HTTP to anything but loopback")] = False
    credentials: Annotated[
        Literal["environment", "file", "default-chain", "ecs-ram-role", "oidc", "process", "anonymous"],
        Meta(
            description="where credentials come from; environment is OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET and, if set, OSS_SESSION_TOKEN"
        ),
    ] = "environment"
    credentials_file: Annotated[
        str,
        Meta(
            description="for file: JSON with access_key_id, access_key_secret and, if any, session_token; read again when it changes, the old ones kept while it cannot be read"
        ),
    ] = ""
    credentials_process: Annotated[
        str,
        Meta(
            description="for process: the command that prints them, as the Alibaba Cloud CLI takes it; no shell, at most 60 s and 64 KiB"
        ),
    ] = ""
    ca_file: Annotated[str, Meta(description="certificates to trust instead of the built-in ones, PEM")] = ""
    proxy_url: Annotated[str, Meta(description="an HTTP proxy, http://[user:password@]host:port")] = ""
    connect_timeout_seconds: Annotated[Seconds, Meta(description="for the connection")] = 5.0
    write_timeout_seconds: Annotated[Seconds, Meta(description="for sending the body")] = 60.0
    read_timeout_seconds: Annotated[Seconds, Meta(description="for waiting for the answer")] = 30.0


class Records(Table, frozen=True):
    """How records are read."""

    format: Annotated[Literal["auto", "json", "msgpack"], Meta(description="auto tells by the first byte")] = "auto"
    key_format: Annotated[
        Literal["utf8", "json"], Meta(description='json for Kafka keys written as "doc-1", with the quotes')
    ] = "utf8"
    metadata_values: Annotated[
        Literal["strict", "stringify"],
        Meta(description="stringify turns numbers and booleans into text, and drops nulls"),
    ] = "strict"
    tombstones: Annotated[
        Literal["dead-letter", "delete", "ignore"],
        Meta(description="what a null value means for the vector of the Kafka key"),
    ] = "dead-letter"


class Batch(Table, frozen=True):
    """When a batch is full."""

    max_records: Annotated[int, Meta(ge=1, le=500, description="records; the service takes 500")] = 500
    max_bytes: Annotated[int, Meta(ge=1024, le=20971520, description="bytes of the request's body")] = 8388608
    max_age_seconds: Annotated[Seconds, Meta(description="how long its first record may wait for others")] = 1.0


class Delivery(Table, frozen=True):
    """How requests are sent."""

    max_in_flight: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="requests at once, for each index, at most; the limit in force follows the latency",
        ),
    ] = 8
    requests_per_second: Annotated[
        float, Meta(ge=0, le=_MOST_A_SECOND, description="for each index, this process; 0 is no limit")
    ] = 0.0
    vectors_per_second: Annotated[
        float,
        Meta(
            ge=0,
            le=_MOST_A_SECOND,
            description="for each index, this process, in bursts of one second, at most; the rate in force gives way "
            "where the service throttles; 0 is no limit",
        ),
    ] = 2500.0
    retry_initial_seconds: Annotated[Seconds, Meta(description="the longest first delay; later ones double")] = 0.5
    retry_max_seconds: Annotated[
        Seconds, Meta(description="the longest delay; also how often what blocks is tried again")
    ] = 30.0
    retry_after_max_seconds: Annotated[Seconds, Meta(description="the longest Retry-After that is followed")] = 300.0


class Buffer(Table, frozen=True):
    """How much may be held."""

    max_bytes: Annotated[
        int,
        Meta(ge=1048576, le=_MOST_BYTES, description="bytes held by records not yet settled; fetching pauses above"),
    ] = 268435456
    max_offset_span: Annotated[
        int,
        Meta(
            ge=1,
            le=_MOST_BYTES,
            description="offsets from a partition's watermark to its newest record; fetching it pauses above",
        ),
    ] = 100000


class DeadLetter(Table, frozen=True):
    """What becomes of records that can never be written."""

    topic: Annotated[
        str,
        Meta(max_length=249, description="the dead-letter topic; with none the first bad record blocks its partition"),
    ] = "vectors.dlq"
    limit_ratio: Annotated[
        float,
        Meta(gt=0, le=1, description="more than this share of the last limit_window records of a topic blocks it"),
    ] = 0.1
    limit_window: Annotated[int, Meta(ge=1, le=_MOST_COUNTED, description="records")] = 1000
    limit_min: Annotated[
        int, Meta(ge=1, le=_MOST_COUNTED, description="dead letters in the window, at the least, before it blocks")
    ] = 50
    accept_until: Annotated[str, Meta(description="RFC 3339; until then the limit does not block")] = ""
    isolated_attempts: Annotated[
        int,
        Meta(
            ge=1,
            le=_MOST_COUNTED,
            description="500s for a record alone, while others are taken, before it is dead-lettered",
        ),
    ] = 10
    oversize: Annotated[
        Literal["block", "reference"],
        Meta(description="for a dead letter that the broker finds too large; reference writes its place and size"),
    ] = "block"
    idempotent: Annotated[
        Literal["auto", "true", "false"], Meta(description="the idempotent producer; some brokers lack it")
    ] = "auto"


class Http(Table, frozen=True):
    """The port for metrics and health."""

    host: Annotated[str, Meta(min_length=1, description="the address to listen on")] = "0.0.0.0"  # noqa: S104 - a container's port is reached from outside
    port: Annotated[int, Meta(ge=0, le=65535, description="0 takes a free one, and logs it")] = 9464


class Log(Table, frozen=True):
    """The log, on stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="the least level, of the worker alone: no library logs under info"),
    ] = "info"
    format: Annotated[Literal["auto", "json", "text"], Meta(description="auto is text on a terminal, else JSON")] = (
        "auto"
    )


class Shutdown(Table, frozen=True):
    """The end."""

    drain_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=_YEAR,
            description="from the signal to the exit; the last 5 s, at most half, are for commit and leave",
        ),
    ] = 25.0


class Settings(Table, frozen=True):
    """All settings."""

    routes: Annotated[tuple[Route, ...], Meta(min_length=1)]
    kafka: Kafka
    oss: Oss
    records: Records
    batch: Batch
    delivery: Delivery
    buffer: Buffer
    dead_letter: DeadLetter
    http: Http
    log: Log
    shutdown: Shutdown

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics to read, in the order of the routes."""
        return tuple(route.topic for route in self.routes)

    @property
    def indexes(self) -> tuple[str, ...]:
        """The indexes to write to, each once."""
        return tuple(dict.fromkeys(route.index for route in self.routes))


TABLES: Final[Mapping[str, type[Table]]] = MappingProxyType(
    {
        "kafka": Kafka,
        "oss": Oss,
        "records": Records,
        "batch": Batch,
        "delivery": Delivery,
        "buffer": Buffer,
        "dead_letter": DeadLetter,
        "http": Http,
        "log": Log,
        "shutdown": Shutdown,
    }
)

# What the worker sets itself: another value would break a promise, or has a setting of its own.
OWNED_CLIENT_SETTINGS: Final = frozenset(
    {
        *("acks", "allow_auto_create_topics", "auto_commit_interval_ms", "auto_offset_reset", "bootstrap_servers"),
        *("client_id", "consumer_timeout_ms", "default_offset_commit_callback", "enable_auto_commit"),
        *("enable_idempotence", "group_id", "group_instance_id", "heartbeat_interval_ms", "isolation_level"),
        *(
            "kafka_client",
            "key_deserializer",
            "key_serializer",
            "max_poll_interval_ms",
            "max_poll_records",
            "metrics_enabled",
            "sasl_oauth_token_provider",
        ),
        *("partition_assignment_strategy", "sasl_mechanism", "sasl_plain_password", "sasl_plain_username"),
        *("security_protocol", "session_timeout_ms", "ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password"),
        *("transactional_id", "value_deserializer", "value_serializer"),
    }
)


class Loaded(msgspec.Struct, frozen=True):
    """The settings in force, and for each name of the form table.name where its value came from."""

    settings: Settings
    origins: dict[str, str]


def load(path: Path | None, environ: Mapping[str, str], *, to_run: bool = False) -> Loaded:
    """Read the settings. The environment wins over the file, the file over the defaults.

    `path` is the file of `--config`; without it `OSS_VECTORS_CONFIG` names one, without that there is none.
    `to_run` asks for what only a run needs, the credentials. Raises `SettingsError` with every mistake.
    """
    return _Loader(environ, to_run=to_run).load(path)


class _Loader:
    """Gathers values and mistakes, table by table."""

    def __init__(self, environ: Mapping[str, str], *, to_run: bool) -> None:
        self._environ = environ
        self._to_run = to_run
        self._mistakes: list[str] = []
        self._wrong: set[str] = set()  # the settings that have a mistake by themselves
        self._origins: dict[str, str] = {}

    def load(self, path: Path | None) -> Loaded:
        redaction.remember(*(self._environ.get(name, "").strip() for name in SECRET_VARIABLES))
        document = self._read(path)
        source = str(path or self._environ.get(CONFIG_VARIABLE) or "")
        self._refuse_unknown_tables(document, source)
        self._refuse_unknown_variables()
        routes = self._routes(document.get("routes"), source)
        tables = {name: self._table(name, kind, document.get(name, {}), source) for name, kind in TABLES.items()}
        # A setting that is wrong by itself stands at its default here, and nothing more is said of it.
        self._mistakes += [m for m in _contradictions(routes, tables) if m.partition(" ")[0] not in self._wrong]
        oss = tables["oss"]
        if self._to_run and isinstance(oss, Oss) and oss.credentials == "environment":
            self._mistakes += credential_mistakes(self._environ)
        if self._mistakes:
            raise SettingsError([clean(mistake, _MISTAKE_CHARACTERS) for mistake in self._mistakes])
        return Loaded(Settings(routes=routes, **tables), self._origins)  # type: ignore[arg-type]  # each is of its table's type

    def _read(self, path: Path | None) -> dict[str, Any]:
        if path is None:
            named = self._environ.get(CONFIG_VARIABLE, "").strip()
            if not named:
                return {}
            path = Path(named)
        try:
            content = files.read(path, files.SETTINGS_BYTES)
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte
            self._mistakes.append(
                f"the settings file {setting_text.shown_path(path)} cannot be read: {files.why(error)}"
            )
            return {}
        try:
            return tomllib.loads(content.decode("utf-8-sig"))
        except ValueError as error:  # also not UTF-8, and a number of thousands of digits
            self._mistakes.append(f"the settings file {setting_text.shown_path(path)} is not TOML: {error}")
        except RecursionError:
            self._mistakes.append(f"the settings file {setting_text.shown_path(path)} is nested too deep")
        return {}

    def _refuse_unknown_tables(self, document: Mapping[str, Any], source: str) -> None:
        known = ["routes", *TABLES]
        self._mistakes += [
            f"{name} (in {source}) is no table of the settings{_meant(name, known)}; there are {', '.join(known)}"
            for name in document
            if name not in known
        ]

    def _refuse_unknown_variables(self) -> None:
        known = {_variable(table, name): f"{table}.{name}" for table, kind in TABLES.items() for name in _fields(kind)}
        known |= {f"{variable}_FILE": f"{name}_file" for variable, name in known.items()}
        flattened = {variable.replace("__", "_"): variable for variable in known}
        for variable in self._environ:
            if (
                not variable.startswith(ENV_PREFIX)
                or variable in known
                or variable in (CONFIG_VARIABLE, f"{ENV_PREFIX}ROUTES")
            ):
                continue
            if "__" in variable[len(ENV_PREFIX) :]:
                self._mistakes.append(f"the variable {variable} names no setting{_meant(variable, list(known))}")
            elif variable in flattened:
                self._mistakes.append(
                    f"the variable {variable} names no setting; did you mean {flattened[variable]}, with two underscores after the table?"
                )

    def _routes(self, value: Any, source: str) -> tuple[Route, ...]:
        origin = source
        text = self._environ.get(f"{ENV_PREFIX}ROUTES")
        if text is not None:
            origin = f"{ENV_PREFIX}ROUTES"
            value = self._routes_from_text(text)
            if value is None:
                return ()
        if not value:
            self._mistakes.append(
                f'routes: at least one is needed, in the file as [[routes]] with topic and index, or as {ENV_PREFIX}ROUTES="topic:index"'
            )
            return ()
        if not isinstance(value, list) or not all(isinstance(route, dict) for route in value):
            self._mistakes.append(f"routes (from {origin}) is not a list of tables; write each as [[routes]]")
            return ()
        self._origins["routes"] = origin
        routes = [self._fill(f"routes[{place}]", Route, route, origin) for place, route in enumerate(value)]
        return tuple(route for route in routes if isinstance(route, Route))

    def _routes_from_text(self, text: str) -> list[dict[str, Any]] | None:
        if text.lstrip().startswith("["):
            try:
                value: list[dict[str, Any]] = _from_json(text)
            except ValueError as error:
                self._mistakes.append(f"{ENV_PREFIX}ROUTES is not JSON: {error}")
                return None
            return value
        pairs = [pair.strip().rpartition(":") for pair in text.split(",") if pair.strip()]
        if not all(topic and index for topic, _, index in pairs):
            shown = HIDDEN if setting_text.may_be_secret(text) else _quoted(text)
            self._mistakes.append(f"{ENV_PREFIX}ROUTES = {shown}: allowed are topic:index,topic:index and JSON")
            return None
        return [{"topic": topic, "index": index} for topic, _, index in pairs]

    def _table(self, table: str, kind: type[Table], document: Any, source: str) -> Table | None:
        if not isinstance(document, dict):
            self._mistakes.append(f"{table} (in {source}) is not a table; write it as [{table}]")
            return None
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for name, value in document.items():
            if name in _fields(kind):
                values[name], origins[name] = value, source
            elif name.endswith("_file") and (stem := name[: -len("_file")]) in _fields(kind):
                if stem in document:
                    self._mistakes.append(
                        f"{table}.{stem} and {table}.{name} (in {source}): only one of them may be set"
                    )
                self._take_file(table, stem, value, f"{source} ({name})", values, origins)
            else:
                self._mistakes.append(f"{table}.{name} (in {source}) is no setting{_meant(name, list(_fields(kind)))}")
        self._take_environment(table, kind, values, origins)
        for name in _fields(kind):
            self._origins[f"{table}.{name}"] = origins.get(name, "default")
        _remember({name: value for name, value in values.items() if f"{table}.{name}" in SECRETS})
        return self._fill(table, kind, values, source, origins)

    def _take_environment(self, table: str, kind: type[Table], values: dict[str, Any], origins: dict[str, str]) -> None:
        for name in _fields(kind):
            variable = _variable(table, name)
            if variable in self._environ:
                values[name] = _FromText(setting_text.stripped(name, self._environ[variable]))
                origins[name] = variable
            file_variable = f"{variable}_FILE"
            if file_variable in self._environ and f"{name}_file" not in _fields(kind):
                if variable in self._environ:
                    self._mistakes.append(f"{variable} and {file_variable}: only one of them may be set")
                self._take_file(table, name, self._environ[file_variable], file_variable, values, origins)

    def _take_file(
        self, table: str, name: str, path: Any, origin: str, values: dict[str, Any], origins: dict[str, str]
    ) -> None:
        origins[name] = origin
        try:
            content = files.read(Path(str(path).strip()), files.SECRET_BYTES)
            values[name] = _FromText(setting_text.stripped(name, content.decode()))
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a null byte
            shown = setting_text.shown_path(path, of_secret=f"{table}.{name}" in SECRETS)
            self._mistakes.append(f"{table}.{name} from the file {shown} ({origin}): {files.why(error)}")
            self._wrong.add(f"{table}.{name}")
            values.pop(name, None)

    def _fill(
        self,
        place: str,
        kind: type[Table],
        values: Mapping[str, Any],
        source: str,
        origins: Mapping[str, str] | None = None,
    ) -> Table | None:
        """Convert each value by itself, so that every mistake is found.

        A wrong value leaves its default in place, "" where there is none.
        """
        converted: dict[str, Any] = {}
        fields = _fields(kind)
        for name in values.keys() - fields.keys():
            self._mistakes.append(f"{place}.{name} (in {source}) is no setting{_meant(name, list(fields))}")
        for name, field in fields.items():
            if name not in values:
                if field.required and f"{place}.{name}" not in self._wrong:
                    self._mistakes.append(f"{place}.{name} is needed: {_description(field.type)}")
                    self._wrong.add(f"{place}.{name}")
                if field.required:
                    converted[name] = ""
                continue
            try:
                converted[name] = _converted(name, values[name], field.type)
            except (msgspec.ValidationError, ValueError) as error:
                origin = (origins or {}).get(name, source)
                is_hidden = f"{place}.{name}" in SECRETS or setting_text.may_be_secret(values[name])
                shown = HIDDEN if is_hidden else _shown(values[name])
                self._mistakes.append(f"{place}.{name} = {shown} (from {origin}): {error}; {_description(field.type)}")
                self._wrong.add(f"{place}.{name}")
                if field.required:
                    converted[name] = ""
        return kind(**converted)


class _FromText(str):
    """A value from the environment or a file of its own, which is text whatever its setting's type."""

    __slots__ = ()


def _converted(name: str, given: Any, kind: Any) -> Any:
    """Return the value of the setting `name` as its type. Raises `ValueError`, whose text does not quote the value."""
    value = _parsed(given, kind) if isinstance(given, _FromText) else given
    if found := setting_text.problem(name, value):
        raise ValueError(found)
    return msgspec.convert(value, kind, strict=not isinstance(given, _FromText))


def _parsed(given: _FromText, kind: Any) -> Any:
    """Return what a variable holds: JSON for a table, a list where it is comma separated, else its text."""
    text = str(given)
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(plain) is dict:
        return _from_json(text)
    if get_origin(plain) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _from_json(text: str) -> Any:
    """Read JSON as its standard has it. Raises `ValueError`, whose text does not quote it."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("JSON has no NaN and no Infinity")


def _remember(secrets: Mapping[str, Any]) -> None:
    """Have every text hide these values, which may be wrong; also where one was given to another setting too."""
    for value in secrets.values():
        if isinstance(value, str):
            redaction.remember(str(value))
            redaction.remember_url(str(value))


def _fields(kind: type[Table]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def _variable(table: str, name: str) -> str:
    return f"{ENV_PREFIX}{table.upper()}__{name.upper()}"


def _description(kind: Any) -> str:
    """Return what a setting means, and of words, which are allowed."""
    arguments = get_args(kind)
    meanings = [meta.description for meta in arguments[1:] if isinstance(meta, Meta) and meta.description]
    allowed = [json.dumps(word) for word in get_args(arguments[0])] if get_origin(arguments[0]) is Literal else []
    return " | ".join(allowed) + (": " if allowed else "") + (meanings[-1] if meanings else "")


def _shown(value: Any) -> str:
    return clean(json.dumps(value, default=str), _SHOWN_CHARACTERS)


def _quoted(value: Any) -> str:
    return clean(repr(value), _SHOWN_CHARACTERS)


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


# -- what single values cannot tell


def credential_mistakes(environ: Mapping[str, str]) -> list[str]:
    """Return a mistake for each part of the credentials that the environment lacks, or that cannot be sent.

    White space around a value is left out of account, as it is when the value is used. No mistake quotes a value.
    """
    source = 'oss.credentials = "environment" takes'
    mistakes = []
    for name in CREDENTIAL_VARIABLES:
        value = environ.get(name, "").strip()
        if not value and name != "OSS_SESSION_TOKEN":
            mistakes.append(f"{source} {name} from the environment, and it is not set")
        elif value and (found := setting_text.credential_problem(value)):
            mistakes.append(f"{source} {name} from the environment, and it {found}")
    return mistakes


def _contradictions(routes: Iterable[Route], tables: Mapping[str, Table | None]) -> list[str]:
    mistakes = _route_contradictions(tuple(routes), tables["dead_letter"])
    kafka, oss, dead_letter, http = (tables[name] for name in ("kafka", "oss", "dead_letter", "http"))
    if isinstance(kafka, Kafka):
        mistakes += _kafka_contradictions(kafka)
    if isinstance(oss, Oss):
        mistakes += _oss_contradictions(oss)
    if isinstance(http, Http) and not (_is_host_name(http.host) or _is_address(http.host)):
        mistakes.append(f"http.host = {http.host!r}: allowed is an address of this machine, or its name")
    if isinstance(dead_letter, DeadLetter) and dead_letter.accept_until and accept_until(dead_letter) is None:
        mistakes.append(
            f"dead_letter.accept_until = {dead_letter.accept_until!r}: not a time of RFC 3339, such as 2026-01-31T12:00:00Z"
        )
    return mistakes


def _route_contradictions(routes: tuple[Route, ...], dead_letter: Table | None) -> list[str]:
    topics = [route.topic for route in routes if route.topic]
    mistakes = [
        f"routes: topic {topic!r} stands in several; a topic goes to one index"
        for topic in {t for t in topics if topics.count(t) > 1}
    ]
    if isinstance(dead_letter, DeadLetter) and dead_letter.topic in topics:
        mistakes.append(
            f"dead_letter.topic = {dead_letter.topic!r} is the topic of a route; dead letters would be read as records"
        )
    for index in {route.index for route in routes if route.index}:
        for name in ("dimension", "distance_metric", "non_filterable_metadata_keys"):
            given = {getattr(route, name) for route in routes if route.index == index and getattr(route, name)}
            if len(given) > 1:
                mistakes.append(
                    f"routes: the routes to index {index!r} contradict each other: {name} is {sorted(given)}"
                )
    named = [("routes: topic", topic) for topic in topics]
    if isinstance(dead_letter, DeadLetter) and dead_letter.topic:
        named.append(("dead_letter.topic =", dead_letter.topic))
    mistakes += [
        f"{place} {topic!r} is no name of a topic; allowed are letters, digits, '.', '_' and '-'"
        for place, topic in named
        if not re.fullmatch(r"[A-Za-z0-9._-]+", topic) or topic in (".", "..")
    ]
    return mistakes


def _kafka_contradictions(kafka: Kafka) -> list[str]:
    mistakes = []
    owned = sorted(OWNED_CLIENT_SETTINGS & kafka.client.keys())
    if owned:
        mistakes.append(
            f"kafka.client: {', '.join(owned)} cannot be set here; the worker owns {', '.join(sorted(OWNED_CLIENT_SETTINGS))}"
        )
    mistakes += [
        f"kafka.bootstrap_servers: {HIDDEN if setting_text.may_be_secret(server) else repr(server)} is not host:port"
        for server in kafka.bootstrap_servers
        if not _is_server(server)
    ]
    mistakes += _client_type_mistakes(kafka.client)
    if kafka.client and (unknown := sorted(kafka.client.keys() - set(owned) - (known := _client_settings()).keys())):
        mistakes += [
            f"kafka.client: {name} is no setting of kafka-python{_meant(name, sorted(known))}" for name in unknown
        ]
    if kafka.max_poll_interval_ms < kafka.session_timeout_ms:
        mistakes.append("kafka.max_poll_interval_ms must not be shorter than kafka.session_timeout_ms")
    if kafka.security_protocol.startswith("SASL") and not kafka.sasl_mechanism:
        mistakes.append(f"kafka.sasl_mechanism is needed with kafka.security_protocol = {kafka.security_protocol!r}")
    if kafka.sasl_mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        mistakes += [
            f"kafka.{name} is needed with kafka.sasl_mechanism = {kafka.sasl_mechanism!r}"
            for name in ("sasl_plain_username", "sasl_plain_password")
            if not getattr(kafka, name)
        ]
    given = {name: getattr(kafka, name) for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")}
    mistakes += _file_mistakes("kafka", given)
    if isinstance(crl_file := kafka.client.get("ssl_crlfile"), str):
        mistakes += _file_mistakes("kafka.client", {"ssl_crlfile": crl_file})
    return mistakes


def _is_server(server: str) -> bool:
    """Return whether it is a host, or one with a port. A host is a name, an IPv4 address, or an IPv6 one in brackets."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", server)
    if found is None or (found[2] and not 1 <= int(found[2]) <= 65535):
        return False
    return not found[1] or _is_address(found[1])


def _is_proxy(address: str) -> bool:
    """Return whether the client can read the address. Where it cannot, its errors quote parts of it, a password too."""
    try:
        parts = urlsplit(address)
        return bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _file_mistakes(table: str, paths: Mapping[str, str]) -> list[str]:
    """Return a mistake for each certificate or key that cannot be read."""
    return [
        f"{table}.{name} = {setting_text.shown_path(path)}: {found}"
        for name, path in paths.items()
        if path and (found := files.problem(path, files.CERTIFICATE_BYTES))
    ]


def _client_settings() -> dict[str, Any]:
    """Return kafka-python's settings with their defaults."""
    from kafka import KafkaConsumer, KafkaProducer  # noqa: PLC0415 - only where there is something to compare

    return {**KafkaProducer.DEFAULT_CONFIG, **KafkaConsumer.DEFAULT_CONFIG}


def _is_text(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_socket_options(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(option, list) and len(option) == 3 and all(type(part) is int for part in option) for option in value
    )


# Settings of kafka-python whose default is None, and what each may be; and those that are objects of a program.
_CLIENT_FORMS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = MappingProxyType(
    {
        "api_version": ('text such as "2.8.2"', lambda value: _is_text(value, r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")),
        "compression_type": ("gzip, snappy, lz4 or zstd", lambda value: _is_text(value, "gzip|snappy|lz4|zstd")),
        "proxy_url": ("scheme://[user:password@]host:port", lambda value: isinstance(value, str) and _is_proxy(value)),
        "receive_buffer_bytes": ("a number from 1 on", lambda value: type(value) is int and value > 0),
        "sasl_kerberos_domain_name": ("text", lambda value: isinstance(value, str)),
        "sasl_kerberos_name": ("text", lambda value: isinstance(value, str)),
        "send_buffer_bytes": ("a number from 1 on", lambda value: type(value) is int and value > 0),
        "socket_options": ("a list of lists of three numbers", _is_socket_options),
        "socks5_proxy": (
            "scheme://[user:password@]host:port",
            lambda value: isinstance(value, str) and _is_proxy(value),
        ),
        "ssl_ciphers": ("text", lambda value: isinstance(value, str)),
        "ssl_crlfile": ("the name of a file", lambda value: isinstance(value, str)),
        **dict.fromkeys(
            ("metric_reporters", "partitioner", "selector", "ssl_context"),
            ("an object of a program, which no setting can be", lambda _: False),
        ),
    }
)


def _client_type_mistakes(client: Mapping[str, Any]) -> list[str]:
    """Compare with the defaults' types, or with the form that a value may have whose default has none."""
    defaults = _client_settings() if client else {}
    mistakes = []
    for name, value in client.items():
        kind = type(defaults.get(name))
        form, is_right = _CLIENT_FORMS.get(name, ("", lambda _: True))
        if not is_right(value):
            mistakes.append(f"kafka.client: {name} is not what it may be: {form}")
        elif kind in (bool, int, float, str) and not (type(value) is kind or (kind is float and type(value) is int)):
            mistakes.append(f"kafka.client: {name} is of type {kind.__name__} in kafka-python, the value given is not")
        elif isinstance(value, (int, float)) and not math.isfinite(value):
            mistakes.append(f"kafka.client: {name} is not a finite number")
        elif isinstance(value, int) and abs(value) > _INT32 and name != "buffer_memory":
            mistakes.append(f"kafka.client: {name} is larger than {_INT32}, which Kafka's protocol has no room for")
    return mistakes


def _oss_contradictions(oss: Oss) -> list[str]:
    mistakes = []
    if oss.region.startswith("oss-") or oss.region.endswith("-internal"):
        mistakes.append(
            f"oss.region = {oss.region!r}: allowed is the region alone, such as cn-hangzhou, without oss- or -internal; "
            "another endpoint is set with oss.endpoint"
        )
    if oss.endpoint:
        scheme, host = _scheme_and_host(oss.endpoint)
        if not host:
            shown = HIDDEN if "@" in oss.endpoint else repr(oss.endpoint)
            mistakes.append(f"oss.endpoint = {shown}: allowed is https://host or https://host:port")
        elif scheme == "http" and not oss.allow_http and not _is_loopback(host):
            mistakes.append(
                f"oss.endpoint = {oss.endpoint!r}: plain HTTP is for loopback; oss.allow_http = true allows it elsewhere"
            )
    if oss.proxy_url and not _scheme_and_host(oss.proxy_url, with_user=True)[1]:
        mistakes.append("oss.proxy_url: allowed is http://host:port or http://user:password@host:port")
    if oss.credentials == "file" and not oss.credentials_file:
        mistakes.append('oss.credentials_file is needed with oss.credentials = "file"')
    if oss.credentials == "process" and not oss.credentials_process:
        mistakes.append('oss.credentials_process is needed with oss.credentials = "process"')
    if oss.credentials_process and not _command(oss.credentials_process):
        mistakes.append("oss.credentials_process: it is no command; a quotation mark or a backslash is left open")
    mistakes += _file_mistakes("oss", {"ca_file": oss.ca_file})
    return mistakes


def _command(text: str) -> list[str]:
    """Return a command's words, [] where it is none."""
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _scheme_and_host(endpoint: str, *, with_user: bool = False) -> tuple[str, str]:
    """Return both, the host empty where the endpoint is none."""
    try:
        parts = urlsplit(endpoint)
        plain = parts._replace(path=parts.path.rstrip("/")).geturl() == f"{parts.scheme}://{parts.netloc}"
        usable = (
            parts.scheme in ("http", "https") and plain and (with_user or "@" not in parts.netloc) and parts.port != 0
        )
    except ValueError:  # a bracket that is not closed, a port that is none
        return "", ""
    host = parts.hostname or ""
    return parts.scheme, host if usable and (_is_host_name(host) or _is_address(host)) else ""


def _is_host_name(host: str) -> bool:
    """Return whether it is a name that can be looked up: labels of 1 to 63 letters, digits, - and _."""
    return all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in host.removesuffix(".").split("."))


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:  # a name
        return False
    return True


def accept_until(dead_letter: DeadLetter) -> datetime | None:
    """Return `dead_letter.accept_until` as a time, None where it is empty or none."""
    try:
        moment = datetime.fromisoformat(dead_letter.accept_until)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


# -- showing them


def remember_secrets(settings: Settings) -> None:
    """Have every text that leaves this process hide the secrets in the settings."""
    kafka, oss = settings.kafka, settings.oss
    redaction.remember(kafka.sasl_plain_password, kafka.ssl_password)
    redaction.remember_url(oss.proxy_url)
    for name, value in kafka.client.items():
        if isinstance(value, str):
            redaction.remember_url(value)
            if any(word in name for word in ("password", "secret", "token")):
                redaction.remember(value)


def secret_safe(name: str, value: Any) -> str:
    """Return a setting's value as TOML, hidden where it is a secret that is set."""
    if name in SECRETS and value:
        return (
            f'"{HIDDEN}"'
            if not isinstance(value, dict)
            else "{ " + ", ".join(f'{key} = "{HIDDEN}"' for key in value) + " }"
        )
    if name.endswith("file") and setting_text.shown_path(value) == HIDDEN:
        return as_toml(HIDDEN)
    return as_toml(value)


def as_toml(value: Any) -> str:
    """Return a setting's value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{key} = {as_toml(element)}" for key, element in value.items()) + " }" if value else "{}"
        )
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(as_toml(element) for element in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def in_force(loaded: Loaded) -> str:
    """Return the settings in force as TOML, each with its origin, secrets hidden."""
    lines = []
    for route in loaded.settings.routes:
        lines.append(f"[[routes]]  # from {loaded.origins['routes']}")
        lines += [f"{name} = {as_toml(getattr(route, name))}" for name in _fields(Route)]
        lines.append("")
    for table, kind in TABLES.items():
        lines.append(f"[{table}]")
        for name in _fields(kind):
            full = f"{table}.{name}"
            lines.append(
                f"{name} = {secret_safe(full, getattr(getattr(loaded.settings, table), name))}  # {loaded.origins[full]}"
            )
        lines.append("")
    return "\n".join(lines).rstrip("\n")


_EXAMPLE_VALUES: Final = MappingProxyType(
    {
        ("routes", "topic"): "vectors",
        ("routes", "index"): "docs",
        ("oss", "region"): "cn-hangzhou",
        ("oss", "bucket"): "my-bucket",
        ("oss", "account_id"): "123456789",
    }
)


def example() -> str:
    """Return a commented file with every setting at its default, and sample values where one is needed."""
    lines = [
        "# Every setting with its default. What has none is marked as needed.",
        "",
        "[[routes]]  # one for each topic, at least one",
    ]
    lines += _example_lines("routes", Route)
    for table, kind in TABLES.items():
        lines += ["", f"# {kind.__doc__}", f"[{table}]"]
        lines += _example_lines(table, kind)
    return "\n".join(lines)


def _example_lines(table: str, kind: type[Table]) -> list[str]:
    lines = []
    for name, field in _fields(kind).items():
        if field.required:
            value, needed = _EXAMPLE_VALUES[table, name], "needed: "
        else:
            value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            needed = ""
        lines.append(f"{name} = {as_toml(value)}  # {needed}{_description(field.type)}")
    return lines
