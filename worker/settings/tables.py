"""The settings: a TOML file and the environment, frozen, every mistake told at once.

Each setting's type, bounds, default and meaning stand here once; `oss-vectors-worker config --example` and the README
show them from here. Nothing is read at import.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

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


INT32: Final = 2**31 - 1  # Kafka's protocol has no more for a time


_MOST_COUNTED: Final = 10_000_000


_MOST_BYTES: Final = 2**50


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
        Meta(ge=1000, le=INT32, description="after so long without a heartbeat the group goes on without this member"),
    ] = 45000
    max_poll_interval_ms: Annotated[
        int, Meta(ge=1000, le=INT32, description="after so long without a poll the group goes on without this member")
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


def fields_of(kind: type[Table]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def description_of(kind: Any) -> str:
    """Return what a setting means, and of words, which are allowed."""
    arguments = get_args(kind)
    meanings = [meta.description for meta in arguments[1:] if isinstance(meta, Meta) and meta.description]
    allowed = [json.dumps(word) for word in get_args(arguments[0])] if get_origin(arguments[0]) is Literal else []
    return " | ".join(allowed) + (": " if allowed else "") + (meanings[-1] if meanings else "")
