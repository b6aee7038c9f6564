"""CloudEvents in both modes: the data is the record, attributes are where paths find them, all else is named."""

import base64
import gzip
import json
import struct
from typing import Any, Final

import msgspec
import pytest

from tests.support.app import settings
from worker.app.decoders import decoder_of
from worker.errors import Reason, RecordError
from worker.records.decode import Decoder, Delete, Put
from worker.records.formats.contract import Headers
from worker.records.formats.shared import SharedHeaders
from worker.records.target import Target
from worker.settings import tables

VECTOR: Final = [1.0, 2.0, 3.0]
OWN: Final = {"key": "a", "data": {"float32": VECTOR}}
EVENT: Final = {"specversion": "1.0", "id": "e1", "source": "/x", "type": "doc.embedded", "subject": "s-1", "tries": 3}
BINARY: Final[Headers] = [("ce_specversion", b"1.0"), ("ce_id", b"e1"), ("ce_subject", b"s-1"), ("ce_tries", b"3")]


def decoder(envelope: str = "cloudevents", **records: Any) -> Decoder:
    route = tables.Route(topic="vectors", index="docs", records={"envelope": envelope, **records})
    return decoder_of(Target("docs", 3, "cosine"), settings(routes=(route,)), "vectors")


def structured(data: Any = OWN, **attributes: Any) -> bytes:
    return json.dumps({**EVENT, **attributes, "data": data}).encode()


def in_base64(data: bytes) -> bytes:
    return json.dumps({**EVENT, "data_base64": base64.b64encode(data).decode()}).encode()


packed: Final = msgspec.msgpack.encode(OWN)


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        pytest.param(structured(), (), id="structured"),
        pytest.param(b"\xef\xbb\xbf \n" + structured(), (), id="structured, after a byte order mark"),
        pytest.param(
            structured(),
            [("Content-Type", b"application/cloudevents+json; charset=UTF-8")],
            id="structured, said by its header",
        ),
        pytest.param(
            structured(),
            [*BINARY, ("content-type", b"application/cloudevents+json")],
            id="structured, with headers of attributes",
        ),
        pytest.param(in_base64(json.dumps(OWN).encode()), (), id="JSON in base64"),
        pytest.param(in_base64(packed), (), id="MessagePack in base64"),
        pytest.param(in_base64(b"\0\0\0\0\7" + json.dumps(OWN).encode()), (), id="a registry's prefix in base64"),
        pytest.param(json.dumps(OWN).encode(), BINARY, id="binary, JSON"),
        pytest.param(packed, BINARY, id="binary, MessagePack"),
        pytest.param(
            json.dumps(OWN).encode(),
            [*BINARY, ("content-type", b"application/json")],
            id="binary, with its content type",
        ),
    ],
)
def test_the_data_of_an_event_is_the_record(value: bytes, headers: Headers) -> None:
    expected = decoder("none").decode(None, json.dumps(OWN).encode(), ())
    assert decoder().decode(None, value, headers) == expected


@pytest.mark.parametrize(
    ("value", "headers"), [(structured(), ()), (json.dumps(OWN).encode(), BINARY)], ids=["structured", "binary"]
)
def test_attributes_are_parts_of_the_record(value: bytes, headers: Headers) -> None:
    made = decoder(
        fields={"key": "{$attribute.subject}/{key}", "metadata": {"id": "$attribute.id", "n": "$attribute.tries"}}
    )
    found = made.decode(b"k", value, headers)
    assert isinstance(found, Put)
    assert found.key == "s-1/a"
    assert json.loads(found.fragment)["metadata"] == {"id": "e1", "n": "3"}


@pytest.mark.parametrize(("value", "headers"), [(structured(subject=None), ()), (json.dumps(OWN).encode(), BINARY[:2])])
def test_a_key_in_an_attribute_that_is_not_there_is_a_dead_letter(value: bytes, headers: Headers) -> None:
    with pytest.raises(RecordError, match=r"there is no \$attribute.subject") as raised:
        decoder(fields={"key": "$attribute.subject"}).decode(b"k", value, headers)
    assert raised.value.reason is Reason.KEY


def test_an_event_without_data_can_delete_its_subject() -> None:
    made = decoder(fields={"key": "$attribute.subject", "delete": "$attribute.deleted"})
    value = json.dumps({**EVENT, "deleted": True}).encode()
    assert made.decode(None, value, ()) == Delete("s-1")
    with pytest.raises(RecordError, match=r"it has no data.float32"):
        made.decode(None, json.dumps(EVENT).encode(), ())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (json.dumps(OWN).encode(), "no CloudEvent"),
        (packed, "no CloudEvent"),
        (b" [%s]" % structured(), 'a batch of CloudEvents: records.many = "split"'),
        (b"", "no CloudEvent"),
        (structured(specversion=1.0), "no CloudEvent"),
        (structured("text"), "data of the CloudEvent is a string"),
        (structured([OWN]), 'data of the CloudEvent is a list.*records.many = "split"'),
        (structured()[:-1], "no whole JSON map"),
        (json.dumps({**EVENT, "data_base64": "?"}).encode(), "data_base64 is a string that is not base64"),
        (json.dumps({**EVENT, "data_base64": 5}).encode(), "data_base64 of the CloudEvent is a number"),
        (structured(subject={"a": 1}), "the attribute subject of the CloudEvent is no single value"),
    ],
)
def test_what_is_no_event_with_a_record_is_malformed(value: bytes, words: str) -> None:
    with pytest.raises(RecordError, match=words) as raised:
        decoder(fields={"key": "$attribute.subject"}).decode(b"k", value, ())
    assert raised.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("name", ["ce-specversion", "CE_SpecVersion", "cloudEvents:specversion"])
@pytest.mark.parametrize("shared", [list, SharedHeaders])
def test_a_header_of_another_binding_is_named(name: str, shared: Any) -> None:
    with pytest.raises(RecordError) as raised:
        decoder().decode(b"k", json.dumps(OWN).encode(), shared([("a", b"b"), (name, b"1.0"), ("ce-id", b"e")]))
    assert raised.value.message.endswith(
        f"it has the header {name}, and on Kafka the header is ce_specversion, in lower case"
    )


def test_the_bytes_of_a_vector_alone_in_an_event_are_called_so() -> None:
    floats = struct.pack("<3f", 0.1, -0.2, 0.3)
    with pytest.raises(RecordError) as raised:
        decoder().decode(b"k", in_base64(floats), ())
    assert raised.value.message.endswith(
        "the event has what looks like the bytes of a vector alone: let it have a map with them at data.float32"
    )
    with pytest.raises(RecordError, match="it looks like gzip"):
        decoder().decode(b"k", in_base64(gzip.compress(packed)), ())
    with pytest.raises(RecordError, match=r'set records\.fields\.vector = "embedding"'):
        decoder().decode(b"k", in_base64(json.dumps({"id": "a", "embedding": VECTOR}).encode()), ())


@pytest.mark.parametrize("dimension", [3, 300])
@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_a_structured_event_without_the_setting_is_a_dead_letter_that_names_it(encode: Any, dimension: int) -> None:
    value = encode({**EVENT, "data": {"float32": [1.0] * dimension}})
    long = encode({**EVENT, "data": {"float32": [1.0] * dimension}, "x": "y" * 200_000})
    target = Target("docs", dimension, "cosine")
    mapped = tables.Route(topic="vectors", index="docs", records={"key_values": "stringify"})
    for made in (
        Decoder(target, max_fragment_bytes=1 << 20),
        decoder_of(target, settings(routes=(mapped,)), "vectors"),
    ):
        for body in (value, long):
            with pytest.raises(RecordError, match=r'set records.envelope = "cloudevents"') as raised:
                made.decode(b"k", body, ())
            assert raised.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    "attributes", [{"specversion": None}, {"id": 5}, {"source": None}, {"type": None}, {"specversion": 1.0}]
)
def test_a_record_that_has_only_some_attributes_of_an_event_is_a_record(attributes: dict[str, Any]) -> None:
    value = json.dumps({**OWN, "specversion": "1.0", "id": "e", "source": "s", "type": "t", **attributes}).encode()
    found = Decoder(Target("docs", 3, "cosine"), max_fragment_bytes=1 << 20).decode(None, value, ())
    assert isinstance(found, Put)
    assert found.key == "a"
