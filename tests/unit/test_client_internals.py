"""No module but those of `client_internals` reaches into kafka-python, and the check knows all that these use."""

import ast
import importlib
import inspect
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.fetcher import CompletedFetch, Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.record.default_records import DefaultRecordBatchBuilder

import worker
from worker.consumer import client_internals, receive
from worker.consumer.client_check import PARTS

ROOT = Path(worker.__file__).parent
INTERNALS = ROOT / "consumer" / "client_internals"
MODULES = sorted(ROOT.rglob("*.py"))
OTHERS = [path for path in MODULES if INTERNALS not in path.parents]
INSIDE = [path for path in MODULES if INTERNALS in path.parents]

PUBLIC = {
    *("kafka", "kafka.admin", "kafka.errors", "kafka.partitioner", "kafka.structs"),
    "kafka.coordinator.assignors.cooperative_sticky",
}
"""What kafka-python documents for its users."""

OF_PYTHON = {
    *("_asdict", "_exit", "_replace", "_ssl", "_test_decode_cert"),
    *("append", "close", "do_handshake", "get", "pop", "popleft", "values"),
}
"""Names of Python's own objects."""

FRAMES = {"tb_frame", "f_locals", "f_back", "_getframe", "currentframe"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def of_the_client(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each module of the client, and the name in it, that a file imports."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "kafka")
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "kafka":
            yield from ((str(node.module), alias.name) for alias in node.names)


def used(tree: ast.AST, leave_out: Collection[int] = ()) -> Iterator[str]:
    """Yield the attributes that are read or set, by a dot or by `getattr` and `setattr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if id(node) not in leave_out:
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            yield from (str(each.value) for each in node.args[1:2] if isinstance(each, ast.Constant))


def defined(tree: ast.AST) -> set[str]:
    """Return the names that a file gives to attributes, functions, classes and variables of its own."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in OTHERS])
def test_a_module_imports_what_the_client_documents(path: Path) -> None:
    assert {module for module, _ in of_the_client(path)} - PUBLIC == set()


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in OTHERS])
def test_a_module_uses_no_private_name_but_its_own(path: Path) -> None:
    tree = tree_of(path)
    assert {name for name in used(tree) if is_private(name)} - defined(tree) - OF_PYTHON == set()


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in MODULES])
def test_no_module_reads_the_variables_of_another_function(path: Path) -> None:
    assert set(used(tree_of(path))) & FRAMES == set()


def checked_names() -> set[str]:
    names = {name.partition("(")[0] for part in PARTS for name in part.names}
    return names | {owner for part in PARTS for owner in part.owner.partition(":")[2].split(".")}


def own_names(path: Path) -> set[str]:
    """Return the attributes and methods that a file's classes add, and no class of the client above them has."""
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    found: set[str] = set()
    for each in vars(importlib.import_module(name)).values():
        if inspect.isclass(each) and each.__module__ == name:
            above = [base for base in inspect.getmro(each)[1:] if base.__module__.partition(".")[0] == "kafka"]
            found |= {method for method in vars(each) if not any(hasattr(base, method) for base in above)}
    stored = {
        node.attr
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    return found | stored


def overridden(path: Path) -> set[str]:
    """Return the methods that a file's classes have in place of those of a class of the client."""
    methods = {
        node.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return {name for name in methods if is_private(name)} - own_names(path)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in INSIDE])
def test_each_class_of_the_client_that_is_used_is_checked(path: Path) -> None:
    imported = {name for module, name in of_the_client(path) if module not in PUBLIC}
    assert imported - checked_names() == set()


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in INSIDE])
def test_each_attribute_that_is_used_of_the_client_is_checked(path: Path) -> None:
    """Everything behind a dot that is neither of this package, nor of Python, nor of a module that is imported whole."""
    tree = tree_of(path)
    whole = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    of_modules = {
        id(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in whole | {"kafka_errors"}
    }
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    found = set(used(tree, leave_out=of_modules)) | (overridden(path) - functions)
    assert found - set().union(*map(own_names, INSIDE)) - OF_PYTHON - checked_names() == set()


# -- what was fetched


class Fetched:
    """A consumer without brokers, whose fetcher has responses for the partitions it is assigned."""

    def __init__(self, *partitions: TopicPartition) -> None:
        self._subscription = SubscriptionState("none")
        self._subscription.assign_from_user(partitions)
        manager = SimpleNamespace(_net=None, cluster=SimpleNamespace(request_update=lambda: None))
        self._fetcher = Fetcher(SimpleNamespace(_manager=manager), self._subscription)
        for tp in partitions:
            self._subscription.seek(tp, 0)
        client_internals.note_fetch_places(self)

    def respond(self, tp: TopicPartition, records: bytes | None, error_code: int = 0, *, at: int = 0) -> None:
        answer = SimpleNamespace(
            error_code=error_code,
            high_watermark=9,
            records=records,
            diverging_epoch=None,
            aborted_transactions=None,
            preferred_read_replica=-1,
        )
        self._fetcher._completed_fetches.append(CompletedFetch(tp, at, 11, answer, None))

    def poll(self, most: int = 500) -> dict[TopicPartition, list[int]]:
        records, _ = self._fetcher.fetched_records(most)
        return {tp: [record.offset for record in found] for tp, found in records.items()}


def records_of(count: int, *, damaged: bool = False) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for offset in range(count):
        assert builder.append(offset, 0, None, b"value", []) is not None
    made = bytearray(builder.build())
    if damaged:
        made[-1] ^= 1
    return bytes(made)


def after(made: bytes, first: int) -> bytes:
    """The batch at a later offset, which its checksum leaves out."""
    return first.to_bytes(8, "big") + made[8:]


FIRST, SECOND = TopicPartition("records", 0), TopicPartition("records", 1)


@pytest.mark.parametrize("own_path", [True, False])
def test_the_place_of_a_damaged_batch_is_noted(own_path: bool) -> None:
    consumer = Fetched(FIRST)
    if own_path:
        receive.read_without_copies(consumer)
    consumer.respond(FIRST, records_of(2) + after(records_of(1, damaged=True), 2))
    assert consumer.poll() == {FIRST: [0, 1]}
    with pytest.raises(kafka_errors.CorruptRecordError) as raised:
        consumer.poll()
    assert client_internals.fetch_place_of(raised.value) == (FIRST, 2)
    client_internals.drop_fetched(consumer, SECOND)  # of another partition: nothing is dropped
    assert consumer._fetcher._next_partition_records
    client_internals.drop_fetched(consumer, FIRST)
    assert not consumer._fetcher._next_partition_records


def test_null_in_place_of_records_is_none_of_them() -> None:
    consumer = Fetched(FIRST)
    receive.read_without_copies(consumer)
    consumer.respond(FIRST, None)
    assert consumer.poll() == {}
    consumer.respond(FIRST, records_of(2))
    assert consumer.poll() == {FIRST: [0, 1]}


def test_the_place_of_a_response_that_is_an_error_is_noted() -> None:
    consumer = Fetched(FIRST)
    consumer.respond(FIRST, b"", kafka_errors.CorruptRecordError.errno)
    with pytest.raises(kafka_errors.CorruptRecordError) as raised:
        consumer.poll()
    assert client_internals.fetch_place_of(raised.value) == (FIRST, 0)


def test_an_error_of_something_else_has_no_place() -> None:
    assert client_internals.fetch_place_of(kafka_errors.CorruptRecordError()) is None


def test_an_error_behind_records_is_returned_with_its_place_and_once() -> None:
    consumer = Fetched(FIRST, SECOND)
    consumer.respond(FIRST, records_of(1))
    consumer.respond(SECOND, records_of(1, damaged=True))
    assert consumer.poll() == {FIRST: [0]}
    error = client_internals.pop_deferred_error(consumer)
    assert error is not None
    assert client_internals.fetch_place_of(error) == (SECOND, 0)
    assert client_internals.pop_deferred_error(consumer) is None


@pytest.mark.parametrize("is_dropped", [False, True])
def test_an_error_that_was_put_aside_is_raised_unless_it_is_dropped(is_dropped: bool) -> None:
    consumer = Fetched(FIRST)
    for _ in range(2):
        consumer.respond(FIRST, b"", kafka_errors.CorruptRecordError.errno)
    with pytest.raises(kafka_errors.CorruptRecordError):
        consumer.poll()
    consumer._subscription.pause(FIRST)
    assert consumer.poll() == {}
    client_internals.drop_parked(consumer, FIRST if is_dropped else SECOND)
    consumer._subscription.resume(FIRST)
    if not is_dropped:
        with pytest.raises(kafka_errors.CorruptRecordError):
            consumer.poll()
    assert consumer.poll() == {}


@pytest.mark.parametrize("held", ["not begun", "put aside", "begun", "begun and put aside"])
def test_what_was_fetched_of_a_deleted_log_is_not_handed_over_as_the_next_logs(held: str) -> None:
    """Both are read at the same offset, by which alone the client knows what it has fetched."""
    consumer = Fetched(FIRST, SECOND)
    at = 1 if held.startswith("begun") else 0
    consumer.respond(FIRST, records_of(3))
    if at:
        assert consumer.poll(most=at) == {FIRST: [0]}
    consumer.respond(SECOND, records_of(1))
    consumer._subscription.pause(FIRST)
    if held.endswith("put aside"):
        assert consumer.poll(most=1) == {SECOND: [0]}
        consumer.respond(SECOND, after(records_of(1), 1), at=1)
    client_internals.drop_all_fetched(consumer, FIRST)
    client_internals.seek(consumer, FIRST, at)
    consumer._subscription.resume(FIRST)
    client_internals.hand_over_parked_fetches(consumer)
    assert consumer.poll() == {SECOND: [1] if held.endswith("put aside") else [0]}
    assert client_internals.position(consumer, FIRST) == OffsetAndMetadata(at, "", -1)
    assert consumer._fetcher._fetchable_partitions() == [FIRST, SECOND]  # so it is fetched again


@pytest.mark.parametrize("others", [1, 2, 4])
def test_a_resumed_partition_has_its_turn_beside_others_that_always_have_more(others: int) -> None:
    resumed, *behind = [TopicPartition("records", number) for number in range(others + 1)]
    consumer = Fetched(resumed, *behind)
    fetched = dict.fromkeys(behind, 0)  # up to where each of the others was fetched

    def respond_for_all_that_are_fetched() -> None:
        for tp in consumer._fetcher._fetchable_partitions():
            if tp in fetched:
                consumer.respond(tp, after(records_of(7), fetched[tp]), at=fetched[tp])
                fetched[tp] += 7

    consumer.respond(resumed, records_of(9))
    assert consumer.poll(most=3) == {resumed: [0, 1, 2]}
    consumer._subscription.pause(resumed)
    respond_for_all_that_are_fetched()
    read = {tp: list(offsets) for tp, offsets in consumer.poll(most=3).items()}
    consumer._subscription.resume(resumed)
    polls = [consumer_poll(consumer, respond_for_all_that_are_fetched) for _ in range(40)]
    for found in polls:
        for tp, offsets in found.items():
            read.setdefault(tp, []).extend(offsets)
    assert read.pop(resumed) == [3, 4, 5, 6, 7, 8]
    assert resumed in polls[0]
    assert {tp: offsets == list(range(len(offsets))) for tp, offsets in read.items()} == dict.fromkeys(behind, True)


def consumer_poll(consumer: Fetched, respond: Callable[[], None]) -> dict[TopicPartition, list[int]]:
    """Poll as the source does; the answers to what is fetched come after it."""
    client_internals.hand_over_parked_fetches(consumer)
    found = consumer.poll(most=3)
    respond()
    return found


def test_what_was_put_aside_of_a_paused_partition_is_handed_over_once_it_is_resumed() -> None:
    consumer = Fetched(FIRST, SECOND)
    consumer.respond(FIRST, records_of(3))
    assert consumer.poll(most=1) == {FIRST: [0]}
    consumer._subscription.pause(FIRST)
    consumer.respond(SECOND, records_of(1))
    assert consumer.poll() == {SECOND: [0]}
    consumer._subscription.resume(FIRST)
    assert consumer.poll() == {}  # the client leaves it aside: another fetch is in line, with nothing left in it
    client_internals.hand_over_parked_fetches(consumer)
    assert consumer.poll() == {FIRST: [1, 2]}
