"""A schema registry's API as the worker uses it: a stand-in, and a real one, give the same.

The real one is any that runs already and has Confluent's API, at the address in OSS_VECTORS_TEST_REGISTRY_URL; without it those
tests are skipped. tests/README.md says how Apicurio Registry is run.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import pytest
import requests

from tests.support.registry import AVRO, OF_RECORD, PROTOBUF, StandIn, avro, by_id, prefix, stand_in
from worker.records.decode import Decoder, Put
from worker.records.formats.framing import Kind, SchemaId
from worker.records.target import Target
from worker.registry.book import AskingBook
from worker.registry.client import NoSuchSchema, RegistryClient
from worker.settings.tables import Registry

REAL: Final = "OSS_VECTORS_TEST_REGISTRY_URL"
FRAGMENT: Final = b'{"key":"a","data":{"float32":[1.0,2.0,0.5]},"metadata":{"title":"x"}}'
RECORD: Final = {"key": "a", "data": {"float32": [1.0, 2.0, 0.5]}, "metadata": {"title": "x"}}
PROTOBUF_BODY: Final = bytes.fromhex("0a0161 120e0a0c 0000803f000000400000003f 1a0a0a057469746c65120178")


class RealRegistry:
    """A registry that runs already. Subjects have names of their own in each run."""

    def __init__(self, url: str) -> None:
        self.url = url

    def register(
        self, schema: Any, kind: str = "AVRO", subject: str = "vectors-value", references: Sequence[Any] = ()
    ) -> int:
        """Register a schema and return its id."""
        body = {"schema": schema if isinstance(schema, str) else json.dumps(schema), "schemaType": kind}
        answer = requests.post(
            f"{self.url}/subjects/{subject}/versions",
            json={**body, "references": list(references)},
            headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
            timeout=60,
        )
        answer.raise_for_status()
        return int(answer.json()["id"])


@pytest.fixture(scope="module", params=["stand-in", "real"])
def registry(request: pytest.FixtureRequest) -> Iterator[StandIn | RealRegistry]:
    """Each of them."""
    if request.param == "stand-in":
        with stand_in() as server:
            yield server
    elif url := os.environ.get(REAL, ""):
        yield RealRegistry(url)
    else:
        pytest.skip(f"no registry in {REAL}")


@pytest.fixture
def subject() -> Callable[[str], str]:
    """Names of subjects that no other test has."""
    own = uuid.uuid4().hex
    return lambda name: f"{name}-{own}"


@pytest.fixture
def client(registry: StandIn | RealRegistry) -> Iterator[RegistryClient]:
    """A client of it."""
    made = RegistryClient(Registry(url=registry.url, timeout_seconds=60.0))
    yield made
    made.close()


def decoded(client: RegistryClient, value: bytes, headers: Any = ()) -> object:
    decoder = Decoder(Target("docs", 3, "cosine"), max_fragment_bytes=10_000, schemas=AskingBook(client))
    return decoder.decode(None, value, headers)


Subject = Callable[[str], str]


def test_avro_with_a_reference(registry: StandIn | RealRegistry, client: RegistryClient, subject: Subject) -> None:
    data = {**AVRO["fields"][1]["type"], "namespace": "com.example"}  # type: ignore[index]  # it is a record
    registry.register(data, subject=subject("data"))
    fields: list[Any] = list(AVRO["fields"])
    fields[1] = {"name": "data", "type": "com.example.Data"}
    references = [{"name": "com.example.Data", "subject": subject("data"), "version": 1}]
    number = registry.register({**AVRO, "fields": fields}, subject=subject("a"), references=references)
    assert client.fetch(by_id(number)).references[0][0] == "com.example.Data"
    assert decoded(client, prefix(number) + avro(AVRO, RECORD)) == Put("a", FRAGMENT, False)


def test_protobuf_with_a_reference(registry: StandIn | RealRegistry, client: RegistryClient, subject: Subject) -> None:
    data = 'syntax = "proto3";\npackage com.example;\nmessage Data {\n  repeated float float32 = 1;\n}\n'
    registry.register(data, "PROTOBUF", subject("data"))
    inner = "    message Data { repeated float float32 = 1; }\n"
    text = PROTOBUF.replace(inner, "").replace("package", 'import "data.proto";\npackage')
    references = [{"name": "data.proto", "subject": subject("data"), "version": 1}]
    number = registry.register(text, "PROTOBUF", subject("a"), references)
    assert decoded(client, prefix(number) + OF_RECORD + PROTOBUF_BODY) == Put("a", FRAGMENT, False)


def test_json_schema(registry: StandIn | RealRegistry, client: RegistryClient, subject: Subject) -> None:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": subject("a"), "type": "object"}
    number = registry.register(schema, "JSON", subject("a"))
    assert client.fetch(by_id(number)).kind == "JSON"
    assert decoded(client, prefix(number) + msgspec.json.encode(RECORD)) == Put("a", FRAGMENT, False)


def test_a_schema_that_the_registry_does_not_have(client: RegistryClient) -> None:
    with pytest.raises(NoSuchSchema):
        client.fetch(by_id(2**31 - 2))
    client.probe()


def test_the_ids_that_apicurio_writes_into_headers(
    registry: StandIn | RealRegistry, client: RegistryClient, subject: Subject
) -> None:
    if "/apis/ccompat/" not in registry.url:
        pytest.skip("it is not Apicurio's")
    own = {**AVRO, "doc": subject("a")}
    number = registry.register(own, subject=subject("a"))
    answer = requests.get(
        f"{registry.url.partition('/apis/')[0]}/apis/registry/v3/groups/default/artifacts/{subject('a')}/versions/1",
        timeout=60,
    ).json()
    assert answer["contentId"] == number
    for header, own_id in (
        ("apicurio.value.contentId", answer["contentId"]),
        ("apicurio.value.globalId", answer["globalId"]),
    ):
        headers = ((header, int(own_id).to_bytes(8, "big")),)
        assert decoded(client, avro(AVRO, RECORD), headers) == Put("a", FRAGMENT, False)
    with pytest.raises(NoSuchSchema):
        client.fetch(SchemaId(Kind.GLOBAL_ID, str(2**40)))
