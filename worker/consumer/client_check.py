"""The check before the start: whether the installed kafka-python has every private part that the worker uses.

`client_internals` says what they are for. They are looked up in classes and in the code of their functions, without a
client: an attribute of an object counts as there when a function of its class sets it. So it needs no broker, takes some
milliseconds, and finds what a release renamed, removed or gave other parameters. It imports nothing of the client before
it is called, because an import may be what fails.

Without the parts of the receive path the client's own is used (`receive`). Without any other part the worker cannot run.
"""

import dis
import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, Final, NamedTuple

Find = Callable[[Any, str], bool]


class Part(NamedTuple):
    """Names that a class, a function or a module must have. `owner` is "module:name.name", or a module alone."""

    owner: str
    kind: str
    """`methods`: called so, with a dot for each argument and the names of keywords, e.g. "send(. node_id)"; `attributes`: of
    the class, or set in one of its functions; `uses`: what the function's code refers to; `settings`: keys of
    `DEFAULT_CONFIG`; `fields`: of a request; `names`: of a module."""
    names: tuple[str, ...]
    is_receive_path: bool = False

    def paths(self) -> Iterator[tuple[str, str]]:
        """Yield each name as it is written here, and the path by which it is reported."""
        for name in self.names:
            yield name, f"{self.owner.replace(':', '.')}.{name.partition('(')[0]}"


_CONSUMER: Final = "kafka.consumer.group:KafkaConsumer"
_FETCHER: Final = "kafka.consumer.fetcher:Fetcher"
_RECORDS: Final = f"{_FETCHER}.PartitionRecords"
_STATES: Final = "kafka.consumer.subscription_state:SubscriptionState"
_COORDINATOR: Final = "kafka.coordinator.consumer:ConsumerCoordinator"
_ASSIGNOR: Final = "kafka.coordinator.assignors.cooperative_sticky:CooperativeStickyAssignor"
_CLUSTER: Final = "kafka.cluster:ClusterMetadata"
_MANAGER: Final = "kafka.net.manager:KafkaConnectionManager"
_CONNECTION: Final = "kafka.net.connection:KafkaConnection"
_TRANSPORT: Final = "kafka.net.transport:KafkaTCPTransport"
_TLS_TRANSPORT: Final = "kafka.net.transport:KafkaSSLTransport"
_PARSER: Final = "kafka.protocol.parser:KafkaProtocol"
_SELECTOR: Final = "kafka.net.selector:NetworkSelector"
_CLIENT: Final = "kafka.net.compat:KafkaNetClient"
_SOCKET: Final = "kafka.net.inet:KafkaNetSocket"
_PRODUCER: Final = "kafka.producer.kafka:KafkaProducer"
_SENDER: Final = "kafka.producer.sender:Sender"
_TRANSACTIONS: Final = "kafka.producer.transaction_manager:TransactionManager"
_FUTURE: Final = "kafka.future:Future"
_OLD_BATCH: Final = "kafka.record.legacy_records:LegacyRecordBatch"
_OLD_RECORD: Final = "kafka.record.legacy_records:LegacyRecord"
_REQUESTS: Final = "kafka.protocol.consumer"

PARTS: Final = (
    Part(_CONSUMER, "settings", ("kafka_client",)),
    Part(
        _CONSUMER,
        "attributes",
        ("_manager", "_net", "_cluster", "_subscription", "_coordinator", "_fetcher"),
    ),
    # What these attributes are made of; the entries below look into those classes.
    Part(f"{_CONSUMER}.__init__", "uses", ("SubscriptionState", "ConsumerCoordinator", "Fetcher", "cluster")),
    Part(_PRODUCER, "settings", ("kafka_client",)),
    Part(_PRODUCER, "attributes", ("_closed", "_sender", "_transaction_manager")),
    Part(f"{_PRODUCER}.__init__", "uses", ("Sender", "TransactionManager")),
    Part(_TRANSACTIONS, "attributes", ("last_error",)),
    Part(_TRANSACTIONS, "methods", ("has_producer_id()",)),
    Part(_SENDER, "attributes", ("_client",)),
    Part(_SENDER, "methods", ("force_close()",)),
    Part(_STATES, "attributes", ("assignment",)),
    Part(_STATES, "methods", ("seek(. .)", "is_paused(.)")),
    Part(
        f"{_STATES.partition(':')[0]}:TopicPartitionState",
        "attributes",
        ("awaiting_validation", "position", "highwater"),
    ),
    Part(_COORDINATOR, "attributes", ("coordinator_id", "_join_task", "_assignors", "rejoining")),
    Part(_COORDINATOR, "methods", ("coordinator()", "coordinator_dead(.)", "_failed_request(. . .)")),
    Part(_ASSIGNOR, "attributes", ("member_assignment",)),
    Part(_CLUSTER, "attributes", ("_topics", "_need_update", "need_update", "cluster_id")),
    Part(
        _CLUSTER,
        "methods",
        (
            "leader_for_partition(.)",
            "leader_epoch_for_partition(.)",
            "partitions_for_topic(.)",
            "request_update()",
            "brokers()",
            "topic_id(.)",
            "add_listener(.)",
        ),
    ),
    Part(
        _FETCHER,
        "attributes",
        (
            "_completed_fetches",
            "_next_partition_records",
            "_next_in_line_exception_metadata",
            "_paused_completed_fetches",
            "_paused_partition_records",
        ),
    ),
    Part(_FETCHER, "methods", ("_parse_fetched_data(.)", "_append(. . . .)")),
    Part(
        f"{_FETCHER}.fetched_records",
        "uses",
        (
            "_append",
            "_completed_fetches",
            "_next_in_line_exception_metadata",
            "_next_partition_records",
            "_parse_fetched_data",
            "_paused_completed_fetches",
            "_paused_partition_records",
            "next_fetch_offset",
            "topic_partition",
        ),
    ),
    Part(f"{_FETCHER}._append", "uses", ("drain",)),
    Part("kafka.consumer.fetcher:CompletedFetch", "attributes", ("topic_partition", "fetched_offset")),
    Part("kafka.consumer.fetcher:ExceptionMetadata", "attributes", ("exception",)),
    Part(_MANAGER, "settings", ("proxy_url", "socket_options")),
    Part(
        _MANAGER,
        "attributes",
        ("_net", "_conns", "_backoff", "cluster", "config", "broker_version_data", "ssl_enabled"),
    ),
    Part(
        _MANAGER,
        "methods",
        (
            "_build_transport(. timeout_at)",
            "call_soon(. .)",
            "get_connection(.)",
            "least_loaded_node()",
            "reset_backoff(.)",
            "send(. node_id)",
            "update_backoff(.)",
            "wait_for(. .)",
        ),
    ),
    Part(f"{_MANAGER}._connect", "uses", ("_build_transport", "reset_backoff", "connection_made")),
    Part(f"{_MANAGER}.send", "uses", ("get_connection",)),
    Part(f"{_MANAGER}._build_transport", "uses", ("create_connection", "KafkaSSLTransport", "handshake")),
    Part(_TLS_TRANSPORT, "attributes", ("_sock", "DEFAULT_CONFIG")),
    Part(_TLS_TRANSPORT, "methods", ("__init__(. . host)", "close()")),
    Part("kafka.net.inet:create_connection", "uses", ("KafkaNetSocket", "dns_lookup", "connect")),
    Part(f"{_SOCKET}.connect", "uses", ("sock_connect",)),
    Part(_SOCKET, "methods", ("dns_lookup(. . .)", "sock_connect(. . . timeout_at)")),
    Part(f"{_SOCKET}.register_class", "uses", ("SCHEMES",)),
    Part("kafka.protocol.broker_version_data:BrokerVersionData", "methods", ("api_version(.)",)),
    Part(_CONNECTION, "attributes", ("connected", "init_future", "close_future", "transport", "parser")),
    Part(
        _SELECTOR,
        "methods",
        (
            "run(. . .)",
            "sleep(.)",
            "call_later(. .)",
            "call_soon_threadsafe(.)",
            "wait_read(. timeout_at)",
            "wait_write(. timeout_at)",
        ),
    ),
    Part(_CLIENT, "attributes", ("_manager",)),
    Part(_CLIENT, "methods", ("close()", "__init__(. .)")),
    Part(_FUTURE, "attributes", ("is_done", "value", "exception")),
    Part(
        _FUTURE,
        "methods",
        ("success(.)", "failure(.)", "add_callback(.)", "add_errback(.)", "add_both(.)", "__await__()"),
    ),
    Part(
        f"{_REQUESTS}:HeartbeatRequest",
        "fields",
        ("group_id", "generation_id", "member_id", "group_instance_id"),
    ),
    Part(f"{_REQUESTS}:OffsetFetchRequest", "fields", ("group_id", "topics", "groups", "require_stable")),
    Part(f"{_REQUESTS}:ListOffsetsRequest", "fields", ("isolation_level", "topics")),
    Part(f"{_REQUESTS}:ListOffsetsRequest", "methods", ("min_version_for_isolation_level(.)",)),
    Part(f"{_REQUESTS}:OffsetForLeaderEpochRequest", "fields", ("replica_id", "topics")),
    Part("kafka.protocol.metadata:MetadataResponse.MetadataResponseBroker", "fields", ("node_id", "host", "port")),
    Part("kafka.protocol.metadata:MetadataRequest", "fields", ("topics", "allow_auto_topic_creation")),
    Part("kafka.protocol.metadata:FindCoordinatorRequest", "fields", ("key", "key_type", "coordinator_keys")),
    Part("kafka.protocol.admin:DescribeGroupsRequest", "fields", ("groups",)),
    Part("kafka.protocol.admin:DescribeConfigsRequest", "fields", ("resources", "include_synonyms")),
    Part(f"{_REQUESTS}.metadata:ConsumerProtocolSubscription", "fields", ("topics", "user_data")),
    Part(f"{_REQUESTS}.metadata:ConsumerProtocolSubscription", "methods", ("decode(.)",)),
    Part(f"{_REQUESTS}.metadata:ConsumerProtocolAssignment", "methods", ("decode(.)", "partitions()")),
    # -- the receive path
    Part(_TRANSPORT, "attributes", ("_sock",), True),
    Part(_TRANSPORT, "methods", ("_sock_recv()",), True),
    Part(f"{_TRANSPORT}._read_from_sock", "uses", ("_sock_recv", "data_received"), True),
    Part(f"{_TLS_TRANSPORT}._read_from_sock", "uses", ("_sock_recv", "data_received"), True),
    Part(f"{_CONNECTION}.data_received", "uses", ("parser", "receive_bytes"), True),
    Part(_PARSER, "methods", ("receive_bytes(.)", "_process_response(.)", "_validate_frame_size(.)"), True),
    Part(f"{_PARSER}._process_response", "uses", ("parse_header", "decode"), True),
    Part("kafka.record.util", "names", ("calc_crc32c",), True),
    Part("kafka.record.memory_records:MemoryRecords", "attributes", ("_buffer",), True),
    Part(
        f"{_FETCHER}._parse_fetched_data",
        "uses",
        ("PartitionRecords", "MemoryRecords", "partition_data", "records"),
        True,
    ),
    Part(
        _RECORDS,
        "attributes",
        (
            "aborted_producer_ids",
            "bytes_read",
            "check_crcs",
            "fetch_offset",
            "isolation_level",
            "leader_epoch",
            "next_fetch_offset",
            "records_read",
            "topic_partition",
        ),
        True,
    ),
    Part(
        _RECORDS,
        "methods",
        (
            "_consume_aborted_transactions_up_to(.)",
            "_is_batch_aborted(.)",
            "_maybe_skip_record(.)",
            "_unpack_records(. . . .)",
            "drain()",
            "take(.)",
        ),
        True,
    ),
    Part(f"{_RECORDS}.__init__", "uses", ("_unpack_records",), True),
    Part(f"{_RECORDS}._is_batch_aborted", "uses", ("is_transactional", "producer_id"), True),
    Part(
        _OLD_BATCH,
        "attributes",
        (
            "CODEC_LZ4",
            "KEY_LENGTH",
            "LOG_OVERHEAD",
            "VALUE_LENGTH",
            "_buffer",
            "base_offset",
            "compression_type",
            "magic",
            "size_in_bytes",
        ),
        True,
    ),
    Part(
        _OLD_BATCH,
        "methods",
        (
            "__init__(. .)",
            "_assert_has_codec(.)",
            "_decompress(.)",
            "_read_all_headers()",
            "_read_header(.)",
            "_read_key_value(.)",
            "validate_crc()",
        ),
        True,
    ),
    Part(f"{_OLD_BATCH}.__iter__", "uses", ("_decompress", "_read_all_headers", "_read_key_value"), True),
    Part(_OLD_RECORD, "attributes", ("offset", "timestamp", "key", "value"), True),
    Part(_OLD_RECORD, "methods", ("validate_crc()",), True),
)


def problem() -> str:
    """Return in one line why the worker cannot run with the installed client; empty where it can."""
    missing = [path for part in PARTS if not part.is_receive_path for path in _missing(part)]
    if not missing:
        return ""
    return (
        f"kafka-python {version()} does not have what this worker uses of its inside: {', '.join(dict.fromkeys(missing))}; "
        f"install a version that it was tested with (kafka-python{_requirement()})"
    )


def missing_of_receive_path() -> list[str]:
    """Return which parts of the client's receive path are missing."""
    return [path for part in PARTS if part.is_receive_path for path in _missing(part)]


@functools.cache
def has_receive_path() -> bool:
    """Return whether the worker's own receive path fits the client."""
    return not missing_of_receive_path()


def version() -> str:
    """Return the version of the client that is installed."""
    try:
        return importlib.metadata.version("kafka-python")
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


def _requirement() -> str:
    """Return the versions that this package asks for, e.g. ">=3.0.12,<3.1"; empty where it is not installed."""
    try:
        asked = importlib.metadata.requires("oss-vectors-worker") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    own = next((line for line in asked if line.startswith("kafka-python")), "")
    return own.removeprefix("kafka-python").partition("]")[2].partition(";")[0].strip()


def _missing(part: Part) -> list[str]:
    """Return the paths of what is missing of a part: of its owner alone where that is missing."""
    owner = _find(part.owner)
    if owner is None:
        return [part.owner.replace(":", ".")]
    has = _FIND[part.kind]
    return [path for name, path in part.paths() if not has(owner, name)]


def _find(path: str) -> Any:
    """Return the object at "module:name.name", None where there is none."""
    module, _, names = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return None
    for name in filter(None, names.split(".")):
        found = getattr(found, name, None)
    return found


def _has_method(owner: Any, call: str) -> bool:
    """Return whether a class has a method that can be called with these arguments."""
    name, _, written = call.removesuffix(")").partition("(")
    method = inspect.getattr_static(owner, name, None)
    arguments = written.split()
    positional = [None for argument in arguments if argument == "."]
    keywords = dict.fromkeys(argument for argument in arguments if argument != ".")
    if not isinstance(method, (classmethod, staticmethod)):
        positional.insert(0, None)  # the object
    try:
        inspect.signature(getattr(owner, name)).bind(*positional, **keywords)
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def _has_attribute(owner: Any, name: str) -> bool:
    """Return whether a class has an attribute, or a function of it sets it in its objects."""
    return hasattr(owner, name) or any(
        _sets(function.__code__, name)
        for base in inspect.getmro(owner)
        for function in vars(base).values()
        if inspect.isfunction(function)
    )


def _sets(code: CodeType, name: str) -> bool:
    return name in code.co_names and any(
        step.opname == "STORE_ATTR" and step.argval == name for step in dis.get_instructions(code)
    )


def _uses(function: Any, name: str) -> bool:
    """Return whether a function's code refers to an attribute or to a name outside of it."""
    code = getattr(function, "__code__", None)
    return isinstance(code, CodeType) and any(name in each.co_names for each in _with_inner(code))


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code, and that of the functions that are made within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


_FIND: Final[dict[str, Find]] = {
    "methods": _has_method,
    "attributes": _has_attribute,
    "uses": _uses,
    "settings": lambda owner, name: name in getattr(owner, "DEFAULT_CONFIG", {}),
    "fields": lambda owner, name: name in getattr(owner, "fields", {}),
    "names": hasattr,
}
