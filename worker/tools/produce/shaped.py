"""Messages in the shape that a topic's records have, made of rows, which all have the service's own shape.

A row has a key, a vector and metadata. Each goes to where `records.fields` says that the worker looks for it: into the value,
or into headers. What was made is judged by the worker's decoder, and has to say what the row says.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from worker.app.routers import Reads
from worker.errors import FatalError, Reason, RecordError
from worker.records.decode import Put
from worker.records.formats.contract import Metadata, Options, UnreadNumbers
from worker.records.formats.json import JsonFields
from worker.records.formats.paths import Path, Source
from worker.records.formats.shape import KEY_PATH
from worker.records.formats.values import BYTE_ORDER_MARK
from worker.records.formats.vector_bytes import dtype_of
from worker.records.metadata import shown
from worker.tools.produce.publish import Judge, Message
from worker.tools.produce.rows import Row

_Tree: TypeAlias = dict[str, Any]
_FLOAT32: Final = np.dtype("<f4")


class Shaped:
    """Turns rows into messages of one topic. `judge` is for rows without a value; `form` is how a value is written."""

    def __init__(
        self,
        judge: Judge,
        of_topic: Reads,
        options: Options,
        *,
        form: str,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Raise `FatalError` where no message can be made, since a part has no single place."""
        self._judge = judge
        self._of_topic = of_topic
        self._headers = headers
        self._form = form
        self._shape = options.shape
        self._vector_bytes = options.vector_bytes
        self._dtype = dtype_of(options.vector_bytes)
        self._fields = JsonFields(options.metadata_values)
        self._key = _key_path(options)
        _check_places([self._key, *options.shape.paths])

    def message(self, row: Row) -> Message:
        """Return the message of a row. Raises `RecordError` where the worker would not write what the row says."""
        if row.problem is not None or row.value is None:
            return self._judge.message(row)
        body = row.value.removeprefix(BYTE_ORDER_MARK)
        record = self._fields.record(body)
        if record.key is None:
            raise RecordError(Reason.KEY, "the row has no key")
        numbers = _numbers(record.vector)
        written: Metadata = record.metadata() if callable(record.metadata) else {}  # as the worker writes it
        message = self._made(record.key, numbers, written or {}, json.loads(body).get("metadata") or {})
        self._check(message, record.key, numbers, written or {})
        return message

    def _made(self, key: str, numbers: Any, written: Metadata, metadata: Mapping[str, Any]) -> Message:
        """Return the message. Metadata is in headers as the worker writes it, and in the value as the row has it."""
        tree: _Tree = {}
        headers = [*self._headers]
        self._place(self._key, key, tree, headers)
        named = self._shape.metadata
        if isinstance(named, Path):
            if written:
                self._place(named, {name: metadata[name] for name in written}, tree, headers)
        else:
            paths = dict(named or ())
            for name, text in written.items():
                if name not in paths:
                    raise RecordError(
                        Reason.METADATA,
                        f"metadata {shown(name)} has no place in this topic's records: records.fields.metadata does not name it",
                    )
                in_value = paths[name].source is Source.VALUE
                self._place(paths[name], metadata[name] if in_value else text, tree, headers)
        return Message(self._judge.kafka_key(key), self._value(tree, numbers), headers)

    def _value(self, tree: _Tree, numbers: Any) -> bytes:
        if self._shape.is_vector_alone:
            return self._packed(numbers)
        if self._form == "json":
            self._place(self._shape.vector, [float(str(number)) for number in numbers], tree, [])
            return msgspec.json.encode(tree)
        packed = self._packed(numbers)
        if self._form == "base64":
            self._place(self._shape.vector, base64.b64encode(packed).decode(), tree, [])
            return msgspec.json.encode(tree)
        self._place(self._shape.vector, packed, tree, [])
        try:
            return msgspec.msgpack.encode(tree)
        except OverflowError:
            raise RecordError(Reason.METADATA, "metadata has a number that MessagePack cannot hold") from None

    def _packed(self, numbers: Any) -> bytes:
        with np.errstate(over="ignore"):
            packed = numbers.astype(self._dtype)
        if not np.array_equal(packed.astype(_FLOAT32), numbers):
            raise RecordError(
                Reason.MALFORMED,
                f'its numbers cannot be stored exactly as records.vector_bytes = "{self._vector_bytes}"',
            )
        return bytes(packed.tobytes())

    def _place(self, path: Path, part: Any, tree: _Tree, headers: list[tuple[str, bytes]]) -> None:
        """Put a part of the record where a path leads to. The Kafka key is always the vector's key."""
        if path.source is Source.VALUE:
            *names, last = path.steps
            for name in names:
                tree = tree.setdefault(str(name), {})
            tree[str(last)] = part
        elif path.source is Source.HEADER:
            if not isinstance(part, str):
                raise RecordError(Reason.METADATA, f"a list of texts cannot be in a header ({path.text})")
            headers.append((path.name, part.encode()))

    def _check(self, message: Message, key: str, numbers: Any, written: Metadata) -> None:
        """Raise `RecordError` where the worker would not read the message, or would read something else."""
        found = self._of_topic.decode(message.key, message.value, message.headers)
        if not isinstance(found, Put):
            raise RecordError(Reason.MALFORMED, "the worker would not write it: its headers delete the key")
        read = json.loads(found.fragment)
        same = {
            "key": read["key"] == key,
            "vector": np.array_equal(np.array(read["data"]["float32"], _FLOAT32), numbers),
            "metadata": written.items() <= read.get("metadata", {}).items(),  # headers of the command may add to it
        }
        if differing := [what for what, is_same in same.items() if not is_same]:
            raise RecordError(
                Reason.MALFORMED, f"the worker would read another {differing[0]} from this topic than the row has"
            )


def _numbers(vector: Any) -> Any:
    """Return a row's vector as float32. Raises `RecordError`."""
    if isinstance(vector, UnreadNumbers):
        with np.errstate(over="ignore"):
            numbers = np.array(vector.read(), _FLOAT32)
    elif len(vector) % _FLOAT32.itemsize:
        raise RecordError(Reason.MALFORMED, f"the vector has {len(vector)} bytes, which are no whole float32s")
    else:
        numbers = np.frombuffer(vector, _FLOAT32)
    if not np.isfinite(numbers).all():
        raise RecordError(Reason.NOT_FINITE, "the vector has a number that is not finite as float32")
    return numbers


def _key_path(options: Options) -> Path:
    template = options.shape.key
    if template is None:
        return Path("$kafka.key", Source.KAFKA_KEY) if options.shape.is_vector_alone else KEY_PATH
    if len(template.parts) == 1 and isinstance(template.parts[0], Path):
        return template.parts[0]
    raise FatalError(
        f'records.fields.key = "{template.text}" makes the key of several parts, and a row has the key alone: write the '
        "file as JSON Lines in the shape of the topic's records"
    )


def _check_places(paths: Sequence[Path]) -> None:
    """Raise `FatalError` where two paths lead to one place, or one into what another leads to; or to an element of a list."""
    places = {path.steps: path for path in paths if path.source is Source.VALUE}
    for steps, path in places.items():
        if not all(isinstance(step, str) for step in steps):
            raise FatalError(f"{path.text} leads to an element of a list, which produce does not write")
        for end in range(1, len(steps)):
            if (outer := places.get(steps[:end])) is not None:
                raise FatalError(f"{path.text} is within {outer.text}, and produce cannot write both")
