"""The tables of settings: each setting's type, bounds, default and meaning, once.

`oss-vectors-worker config --example`, the messages about mistakes and the documentation show them from here.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from worker.records.choices import (
    Envelope,
    Format,
    KeyFormat,
    KeyValues,
    Many,
    MetadataValues,
    Suspect,
    Tombstones,
    VectorBytes,
)

ENV_PREFIX: Final = "OSS_VECTORS_"
CONFIG_VARIABLE: Final = "OSS_VECTORS_CONFIG"
SECRET_VARIABLES: Final = ("OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN")
CREDENTIAL_VARIABLES: Final = ("OSS_ACCESS_KEY_ID", *SECRET_VARIABLES)
SECRETS: Final = frozenset(
    {
        *("kafka.sasl_plain_password", "kafka.ssl_password", "kafka.client", "oss.proxy_url"),
        "oss.credentials_process",  # a command line may contain what it signs in with
        *("registry.password", "registry.token"),
    }
)

_YEAR: Final = 31_536_000  # seconds; longer waits of the system end in an overflow, and infinity would be one
_MOST_A_SECOND: Final = 1e9
_MOST_COUNTED: Final = 10_000_000
_MOST_BYTES: Final = 2**50
MOST_PATH: Final = 1000  # characters
INT32: Final = 2**31 - 1  # the most that Kafka's protocol can carry for a time


def means(description: str, **bounds: Any) -> Meta:
    """Return what a setting means, and its bounds, of which the type itself knows nothing."""
    return Meta(description=description, **bounds)


Seconds = Annotated[float, Meta(gt=0, le=_YEAR)]
Metric = Literal["", "cosine", "euclidean"]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of settings."""


_T = TypeVar("_T", bound=Table)


class Route(Table, frozen=True):
    """Which topic goes to which index."""

    topic: Annotated[str, means("The topic to read.", min_length=1, max_length=249)]
    index: Annotated[
        str | tuple[str, ...],
        means(
            "The index to write to: a letter, then letters and digits, at most 63 in all. Or the shards of one logical index, with index_by."
        ),
    ]
    index_by: Annotated[
        str,
        means(
            'What chooses the index of a record: "" there is one; "key" the shards in index; "header:NAME" or "field:PATH" the value there, by indexes.',
            pattern="^(|key|(header|field):.{1,500})\\Z",
        ),
    ] = ""
    indexes: Annotated[
        dict[str, str],
        means("For header and field: value = index. default is the index of every other value."),
    ] = msgspec.field(default_factory=dict)
    dimension: Annotated[int, means("Numbers in a vector. 0 asks the service at start.", ge=0, le=4096)] = 0
    distance_metric: Annotated[Metric, means('The metric of the index. "" asks the service at start.')] = ""
    non_filterable_metadata_keys: Annotated[
        tuple[str, ...], means("Metadata keys that the index does not filter by. [] asks the service at start.")
    ] = ()
    records: Annotated[
        dict[str, Any], means("What is different in [records] for this topic, also in [records.fields].")
    ] = msgspec.field(default_factory=dict)

    @property
    def index_names(self) -> tuple[str, ...]:
        """Every index that its records may go to, each once; the shards in their order."""
        names = [self.index] if isinstance(self.index, str) else [*self.index]
        return tuple(dict.fromkeys(name for name in [*names, *self.indexes.values()] if name))

    @property
    def is_sharded(self) -> bool:
        """Whether its indexes are the shards of one logical index."""
        return self.index_by == "key"


class Kafka(Table, frozen=True):
    """The brokers and the consumer group."""

    bootstrap_servers: Annotated[tuple[str, ...], means("Some brokers, each host:port.", min_length=1)] = (
        "localhost:9092",
    )
    group_id: Annotated[str, means("The consumer group.", min_length=1)] = "oss-vectors-worker"
    client_id: Annotated[str, means("The name of this client in the brokers' logs.", min_length=1)] = (
        "oss-vectors-worker"
    )
    group_instance_id: Annotated[
        str,
        means(
            'Static membership: one value for each replica, kept over its restarts. "" is dynamic membership.',
            pattern="^[A-Za-z0-9._-]{0,249}\\Z",
        ),
    ] = ""
    auto_offset_reset: Annotated[
        Literal["earliest", "none", "latest"],
        means(
            "Where a partition without a committed offset begins. none blocks it until an offset is committed by hand."
        ),
    ] = "earliest"
    isolation_level: Annotated[
        Literal["read_committed", "read_uncommitted"],
        means("Whether records of open and aborted transactions are read too."),
    ] = "read_committed"
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], means("How to connect to the brokers.")
    ] = "PLAINTEXT"
    ssl_cafile: Annotated[str, means('A file of certificates to trust, PEM. "" trusts those of the system.')] = ""
    ssl_certfile: Annotated[str, means("The file of the client's certificate, PEM.")] = ""
    ssl_keyfile: Annotated[str, means('The file of the client\'s key, PEM. "": the key is in ssl_certfile.')] = ""
    ssl_password: Annotated[str, means("The password of the client's key.")] = ""
    sasl_mechanism: Annotated[
        Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "AWS_MSK_IAM"],
        means(
            "How to log in. Needed with SASL_PLAINTEXT and SASL_SSL. GSSAPI needs the package gssapi, which the image does not have; AWS_MSK_IAM needs botocore, which it does not have either, SASL_SSL, and the region in AWS_DEFAULT_REGION or in AWS's own settings."
        ),
    ] = ""
    sasl_plain_username: Annotated[str, means("The user, for PLAIN and SCRAM.")] = ""
    sasl_plain_password: Annotated[str, means("The password, for PLAIN and SCRAM.")] = ""
    session_timeout_ms: Annotated[
        int, means("Milliseconds without a heartbeat until the group removes this member.", ge=1000, le=INT32)
    ] = 45000
    max_poll_interval_ms: Annotated[
        int, means("Milliseconds without a poll until the group removes this member.", ge=1000, le=INT32)
    ] = 300000
    commit_interval_seconds: Annotated[Seconds, means("Seconds between two commits of offsets.")] = 1.0
    revoke_seconds: Annotated[Seconds, means("Seconds that a rebalance may wait for requests in flight.")] = 15.0
    client: Annotated[
        dict[str, Any], means("Any other setting of kafka-python's KafkaConsumer and KafkaProducer, unchanged.")
    ] = msgspec.field(default_factory=dict)


class Oss(Table, frozen=True):
    """The vector bucket."""

    region: Annotated[str, means("The region of the bucket, such as cn-hangzhou.", pattern="^[a-z0-9-]+\\Z")]
    bucket: Annotated[
        str,
        means(
            "The vector bucket: 3 to 32 of a-z, 0-9 and -, no - at either end.",
            pattern="^[a-z0-9]([a-z0-9-]{1,30})[a-z0-9]\\Z",
        ),
    ]
    account_id: Annotated[str, means("The id of the account that owns the bucket: digits.", pattern="^[0-9]+\\Z")]
    endpoint: Annotated[
        str,
        means(
            'The endpoint: https://..., or http://127.0.0.1:9000 for a local stack. "" is the public one of the region.'
        ),
    ] = ""
    allow_http: Annotated[bool, means("Allow plain HTTP to hosts other than loopback.")] = False
    credentials: Annotated[
        Literal["environment", "file", "default-chain", "ecs-ram-role", "oidc", "process", "anonymous"],
        means(
            "Where credentials come from. environment is OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET and, if set, OSS_SESSION_TOKEN."
        ),
    ] = "environment"
    credentials_file: Annotated[
        str,
        means(
            'For "file": JSON with access_key_id, access_key_secret and, if any, session_token. It is read again when it changes; the old credentials stay until the new ones can be read.'
        ),
    ] = ""
    credentials_process: Annotated[
        str,
        means(
            'For "process": the command that prints them, as the Alibaba Cloud CLI runs it. No shell, at most 60 s and 64 KiB.'
        ),
    ] = ""
    ca_file: Annotated[str, means('A file of certificates to trust, PEM. "" trusts the built-in ones.')] = ""
    proxy_url: Annotated[str, means("An HTTP proxy, http://[user:password@]host:port.")] = ""
    connect_timeout_seconds: Annotated[Seconds, means("Seconds to wait for a connection.")] = 5.0
    write_timeout_seconds: Annotated[Seconds, means("Seconds to send the body of a request.")] = 60.0
    read_timeout_seconds: Annotated[Seconds, means("Seconds to wait for the answer.")] = 30.0


class Fields(Table, frozen=True):
    """Where the parts of a record are in its value: paths, such as payload.vector or items[0].id; ops/records.md has the rest."""

    key: Annotated[
        str,
        means(
            'The vector\'s key: a path, $kafka.key, $header.NAME, $attribute.NAME, or text with paths in braces: "{tenant}/{id}". "": the field key, or else the Kafka key.',
            max_length=MOST_PATH,
        ),
    ] = ""
    vector: Annotated[
        str,
        means(
            'The vector: a path. "$kafka.value": the value is the bytes of a vector and nothing else, and all other parts are in the Kafka key and the headers.',
            min_length=1,
            max_length=MOST_PATH,
        ),
    ] = "data.float32"
    metadata: Annotated[
        str | tuple[str, ...] | dict[str, str],
        means('The metadata: the path of a map, a list of paths, or a table of name = path. "": there is none.'),
    ] = "metadata"
    delete: Annotated[
        str,
        means(
            'A path whose value true or 1, or text "true", "d", "delete" or "1" in any case, deletes the vector of the record\'s '
            'key. "": there is none.',
            max_length=MOST_PATH,
        ),
    ] = ""
    records: Annotated[
        str,
        means(
            'With many = "split": the path of the list of records. "": the value is a list or JSON lines, or a map with the list vectors or data.',
            max_length=MOST_PATH,
        ),
    ] = ""


class Records(Table, frozen=True):
    """How records are read."""

    format: Annotated[Format, means("How values are encoded. auto decides by the first byte of each.")] = "auto"
    key_format: Annotated[
        KeyFormat, means('How Kafka keys are encoded. json is for keys written as "doc-1", with the quotes.')
    ] = "utf8"
    metadata_values: Annotated[
        MetadataValues,
        means("Which metadata is accepted. stringify turns numbers and booleans into text, and drops nulls."),
    ] = "strict"
    tombstones: Annotated[Tombstones, means("What a null value does to the vector of its Kafka key.")] = "dead-letter"
    key_values: Annotated[
        KeyValues, means("Which keys are accepted. stringify turns integers into their decimal text.")
    ] = "strict"
    envelope: Annotated[
        Envelope,
        means("What is around each record: Kafka Connect's schema and payload, a change of Debezium, a CloudEvent."),
    ] = "none"
    vector_bytes: Annotated[VectorBytes, means("What a vector in bytes or base64 holds.")] = "float32-le"
    suspect: Annotated[
        Suspect,
        means(
            "What happens to implausible vectors: a norm or numbers that cannot be meant, a key with its JSON quotes. They are counted in any case."
        ),
    ] = "write"
    many: Annotated[
        Many,
        means("What happens to a message with several records. split reads each; reject makes a dead letter of it."),
    ] = "reject"
    fields: Annotated[Fields, means("Where the parts of a record are, as a table.")] = Fields()


class Registry(Table, frozen=True):
    """The schema registry, for records in Avro, Protobuf and JSON Schema. It needs the extra `registry`."""

    url: Annotated[
        str,
        means(
            "Where its API is, Confluent's or a compatible one: https://host[:port][/path]. \"\": a registry's prefix is skipped before JSON, and all else behind it is unsupported_encoding."
        ),
    ] = ""
    username: Annotated[str, means('The user, for a login with a password. "": no such login.')] = ""
    password: Annotated[str, means("The password of that user.")] = ""
    token: Annotated[str, means('A bearer token, in place of user and password. "": none is sent.')] = ""
    ca_file: Annotated[str, means('A file of certificates to trust, PEM. "" trusts the built-in ones.')] = ""
    allow_http: Annotated[
        bool,
        means("Allow a login over plain HTTP to hosts other than loopback. Without a login plain HTTP is allowed."),
    ] = False
    timeout_seconds: Annotated[Seconds, means("Seconds to connect, and again to wait for an answer.")] = 10.0


class Batch(Table, frozen=True):
    """When a batch is sealed."""

    max_records: Annotated[int, means("Records in one request. The service accepts at most 500.", ge=1, le=500)] = 500
    max_bytes: Annotated[int, means("Bytes in the body of one request.", ge=1024, le=20971520)] = 8388608
    max_age_seconds: Annotated[Seconds, means("Seconds that the first record of a batch may wait for others.")] = 1.0


class Delivery(Table, frozen=True):
    """How requests are sent and retried."""

    max_in_flight: Annotated[
        int, means("Requests in flight for each index, at most. The limit in force follows the latency.", ge=1, le=256)
    ] = 8
    requests_per_second: Annotated[
        float, means("Requests a second for each index, from this process. 0 is no limit.", ge=0, le=_MOST_A_SECOND)
    ] = 0.0
    vectors_per_second: Annotated[
        float,
        means(
            "Vectors a second for each index, from this process, in bursts of one second. The rate in force falls while the service throttles. 0 is no limit.",
            ge=0,
            le=_MOST_A_SECOND,
        ),
    ] = 2500.0
    retry_initial_seconds: Annotated[
        Seconds, means("Seconds before the first retry, at most. The delay doubles with each retry.")
    ] = 0.5
    retry_max_seconds: Annotated[
        Seconds, means("Seconds between two retries, at most. What is blocked is tried again as often.")
    ] = 30.0
    retry_after_max_seconds: Annotated[Seconds, means("Seconds of a Retry-After that is followed, at most.")] = 300.0


class Buffer(Table, frozen=True):
    """How much may be buffered."""

    max_bytes: Annotated[
        int, means("Bytes of records that are not settled. Above it, fetching pauses.", ge=1048576, le=_MOST_BYTES)
    ] = 268435456
    max_offset_span: Annotated[
        int,
        means(
            "Offsets between a partition's watermark and its newest record. Above it, fetching that partition pauses.",
            ge=1,
            le=_MOST_BYTES,
        ),
    ] = 100000


class DeadLetter(Table, frozen=True):
    """What happens to records that can never be written."""

    topic: Annotated[
        str,
        means(
            'The dead-letter topic. "": there are no dead letters, and the first bad record blocks its partition.',
            max_length=249,
        ),
    ] = "vectors.dlq"
    limit_ratio: Annotated[
        float,
        means(
            "A topic is blocked when more than this share of its last limit_window records are dead letters.",
            gt=0,
            le=1,
        ),
    ] = 0.1
    limit_window: Annotated[int, means("Records of a topic that limit_ratio looks at.", ge=1, le=_MOST_COUNTED)] = 1000
    limit_min: Annotated[
        int,
        means(
            "Dead letters in the window before limit_ratio blocks the topic. If it is limit_window or more, limit_ratio never blocks.",
            ge=1,
            le=_MOST_COUNTED,
        ),
    ] = 50
    accept_until: Annotated[
        str, means('Until this time the limit does not block: RFC 3339, such as 2026-01-31T12:00:00Z. "" is never.')
    ] = ""
    isolated_attempts: Annotated[
        int,
        means(
            "Attempts of a record alone that end in 500, while others are accepted, before it is dead-lettered.",
            ge=1,
            le=_MOST_COUNTED,
        ),
    ] = 10
    oversize: Annotated[
        Literal["block", "reference"],
        means(
            "What happens to a dead letter that the broker finds too large. reference writes its place and size instead of its bytes."
        ),
    ] = "block"
    idempotent: Annotated[
        Literal["auto", "true", "false"],
        means(
            "Whether the producer of dead letters is idempotent, and that of produce, dlq replay and verify --repair. auto tries it, since some brokers lack it."
        ),
    ] = "auto"


class Http(Table, frozen=True):
    """The port of metrics and health checks."""

    host: Annotated[str, means("The address to listen on.", min_length=1)] = "0.0.0.0"  # noqa: S104 - a container's port is reached from outside
    port: Annotated[int, means("The port to listen on. 0 is a free one, which is logged.", ge=0, le=65535)] = 9464


class Log(Table, frozen=True):
    """The log, on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        means("The lowest level that is logged. Libraries never log below info."),
    ] = "info"
    format: Annotated[Literal["auto", "json", "text"], means("auto is text on a terminal, else JSON.")] = "auto"


class Shutdown(Table, frozen=True):
    """How the worker stops."""

    drain_seconds: Annotated[
        float,
        means(
            "Seconds from the signal to the exit. The last 5 s, at most half, are for the commit and for leaving the group.",
            ge=1,
            le=_YEAR,
        ),
    ] = 25.0


class Settings(Table, frozen=True):
    """All settings."""

    routes: Annotated[tuple[Route, ...], Meta(min_length=1)]
    kafka: Kafka
    oss: Oss
    records: Records
    registry: Registry
    batch: Batch
    delivery: Delivery
    buffer: Buffer
    dead_letter: DeadLetter
    http: Http
    log: Log
    shutdown: Shutdown

    def records_of(self, topic: str) -> Records:
        """Return how the records of a topic are read: [records], with what is different in its route."""
        changed = next((route.records for route in self.routes if route.topic == topic), {})
        return with_changes(self.records, changed) if changed else self.records

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics to read, in the order of the routes."""
        return tuple(route.topic for route in self.routes)

    @property
    def indexes(self) -> tuple[str, ...]:
        """The indexes to write to, each once."""
        return tuple(dict.fromkeys(name for route in self.routes for name in route.index_names))


TABLES: Final[Mapping[str, type[Table]]] = MappingProxyType(
    {
        "kafka": Kafka,
        "oss": Oss,
        "records": Records,
        "registry": Registry,
        "batch": Batch,
        "delivery": Delivery,
        "buffer": Buffer,
        "dead_letter": DeadLetter,
        "http": Http,
        "log": Log,
        "shutdown": Shutdown,
    }
)


def with_changes(table: _T, changed: Mapping[str, Any]) -> _T:
    """Return a table with other values, in a table within it too. Raises `msgspec.ValidationError`."""
    merged = msgspec.to_builtins(table) | dict(changed)
    for name, value in changed.items():
        if isinstance(within := getattr(table, name, None), Table) and isinstance(value, Mapping):
            merged[name] = with_changes(within, value)
    return msgspec.convert(merged, type(table), from_attributes=True)


def fields_of(kind: type[Table]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the settings of a table by their names."""
    return {field.name: field for field in msgspec.structs.fields(kind)}


def table_in(kind: Any) -> type[Table] | None:
    """Return the table that a setting's type is, None where it is no table."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return plain if isinstance(plain, type) and issubclass(plain, Table) else None


def description_of(kind: Any) -> str:
    """Return which words a setting allows, if not all, and what it means."""
    allowed, *metas = get_args(kind)
    words = [json.dumps(word) for word in get_args(allowed)] if get_origin(allowed) is Literal else []
    meanings = [meta.description for meta in metas if isinstance(meta, Meta) and meta.description]
    parts = [" | ".join(words), *meanings[-1:]]
    return ". ".join(part for part in parts if part)
