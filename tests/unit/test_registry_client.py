"""The registry's API, asked of a stand-in that speaks it: what each answer means, and that no answer costs a record."""

import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from tests.support.registry import AVRO, PROTOBUF, StandIn, basic, by_id, stand_in
from worker.errors import RegistryUnavailable
from worker.records.formats.framing import Kind, SchemaId
from worker.registry.client import NoSuchSchema, RegistryClient, SchemaText, UnusableSchema
from worker.settings.tables import Registry

UNKNOWN: Final = (404, b'{"error_code":40403,"message":"Schema not found"}')
NO_SUCH_ADDRESS: Final = (
    404,
    json.dumps(
        {
            "detail": "NotFoundException: RESTEASY003210: Could not find resource for full path: http://host/apis/registry/v3",
            "error_code": 404,
            "message": "RESTEASY003210: Could not find resource for full path: http://host/apis/registry/v3",
            "name": "NotFoundException",
        }
    ).encode(),
)
"""What Apicurio answers to an address that it does not have."""
NO_SUCH_ARTIFACT: Final = (
    404,
    b'{"error_code":404,"name":"ArtifactNotFoundException","message":"No artifact","detail":null}',
)
GUID: Final = "89791762-2336-4186-9674-299b90a802e2"
OWN: Final = '{"type":"record","name":"Own","fields":[]}'


@pytest.fixture
def registry() -> Iterator[StandIn]:
    """A registry that answers."""
    with stand_in() as server:
        yield server


def fetch(url: str, schema: SchemaId, **chosen: Any) -> SchemaText:
    client = RegistryClient(Registry(url=url, timeout_seconds=chosen.pop("timeout_seconds", 20.0), **chosen))
    try:
        return client.fetch(schema)
    finally:
        client.close()


def test_a_schema_by_its_id_and_by_its_guid(registry: StandIn) -> None:
    one = registry.register(AVRO)
    two = registry.register(PROTOBUF, "PROTOBUF")
    assert fetch(registry.url, by_id(one)) == SchemaText("AVRO", json.dumps(AVRO))
    assert fetch(f"{registry.url}/", by_id(two)) == SchemaText("PROTOBUF", PROTOBUF)
    assert fetch(registry.url, SchemaId(Kind.CONTENT_ID, str(two))).kind == "PROTOBUF"
    guid = SchemaId(Kind.GUID, str(registry.guid_of(two)))
    assert fetch(registry.url, guid) == SchemaText("PROTOBUF", PROTOBUF)


def test_what_a_schema_refers_to_comes_before_it_each_once(registry: StandIn) -> None:
    registry.register('{"a":1}', subject="com/a")
    a = {"name": "A", "subject": "com/a", "version": 1}
    registry.register('{"b":1}', subject="b", references=[a])
    b = {"name": "B", "subject": "b", "version": 1}
    number = registry.register('{"c":1}', references=[b, a])
    assert fetch(registry.url, by_id(number)).references == (("A", '{"a":1}'), ("B", '{"b":1}'))
    assert registry.asked == [
        "/schemas/ids/3",
        "/subjects/b/versions/1?deleted=true",
        "/subjects/com%2Fa/versions/1?deleted=true",
    ]


def test_references_in_a_circle_and_without_end_make_a_schema_unusable(registry: StandIn) -> None:
    registry.register("{}", subject="a", references=[{"name": "A", "subject": "a", "version": 1}])
    with pytest.raises(UnusableSchema, match="A refers to itself"):
        fetch(registry.url, by_id(1))
    many = [{"name": str(each), "subject": "b", "version": 1} for each in range(200)]
    registry.register("{}", subject="b")
    registry.register("{}", subject="c", references=many)
    with pytest.raises(UnusableSchema, match="more than 100 others"):
        fetch(registry.url, by_id(3))


def test_what_a_schema_refers_to_is_bounded_all_together(registry: StandIn) -> None:
    names = [f"r{number}" for number in range(6)]
    for name in names:
        registry.register(json.dumps({"doc": "x" * 900_000}), subject=name)
    registry.register("{}", references=[{"name": name, "subject": name, "version": 1} for name in names])
    with pytest.raises(UnusableSchema, match="what it refers to has more than 4194304 characters"):
        fetch(registry.url, by_id(7))


def test_a_reference_that_was_deleted_softly_is_still_read(registry: StandIn) -> None:
    registry.register('{"a":1}', subject="a")
    registry.register("{}", references=[{"name": "A", "subject": "a", "version": 1}])
    registry.deleted.add("a")
    assert fetch(registry.url, by_id(2)).references == (("A", '{"a":1}'),)


def test_a_reference_that_the_registry_no_longer_has_is_about_that_schema_alone(registry: StandIn) -> None:
    registry.register("{}", references=[{"name": "A", "subject": "gone", "version": 3}])
    with pytest.raises(NoSuchSchema, match="does not have what schema id 1 refers to as A"):
        fetch(registry.url, by_id(1))


def test_a_reference_behind_a_path_that_is_no_registrys_is_no_fault_of_the_schema(registry: StandIn) -> None:
    one = json.dumps({"schema": "{}", "references": [{"name": "A", "subject": "a", "version": 1}]}).encode()

    def gateway(path: str) -> tuple[int, bytes]:
        if path.startswith("/subjects/"):
            return 404, b"<html>nginx</html>"
        return (200, one) if path == "/schemas/ids/1" else UNKNOWN

    registry.instead = gateway
    with pytest.raises(RegistryUnavailable, match="/subjects/a/versions/1"):
        fetch(registry.url, by_id(1))


@pytest.mark.parametrize("code", [40403, 40401, 40402])
def test_an_unknown_id_is_believed_only_in_the_registrys_own_form(registry: StandIn, code: int) -> None:
    registry.instead = lambda _path: (404, json.dumps({"error_code": code, "message": "not found"}).encode())
    with pytest.raises(NoSuchSchema):
        fetch(registry.url, by_id(9))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b'{"error_code":404,"message":"HTTP 404 Not Found"}', "check the path in registry.url"),
        (404, b"<html>nginx</html>", "check the path in registry.url"),
        (404, b"", "check the path in registry.url"),
        (401, b'{"error_code":401,"message":"Unauthorized"}', "401 401: Unauthorized.*check registry.username"),
        (403, b'{"error_code":40301,"message":"denied"}', "403 40301: denied"),
        (302, b"", "302; a redirect, which is not followed: check registry.url$"),
        (429, b"", "429"),
        (500, b'{"error_code":50001,"message":"store"}', "500 50001: store"),
        (503, b"<html>", "503"),
        (200, b"<html>sign in</html>", "not that of a schema registry"),
        (200, b"{}", "not that of a schema registry"),
        (200, b'{"schema":5}', "not that of a schema registry"),
        (200, b'{"schema":"\xff"}', "not that of a schema registry"),
        (200, b'{"schema":"' + b"x" * (2 << 20) + b'"}', "longer|too large"),
        (200, b"[" * 100_000, "not that of a schema registry"),
    ],
)
def test_any_other_answer_is_no_fault_of_a_record(registry: StandIn, status: int, body: bytes, said: str) -> None:
    registry.instead = lambda _path: (status, body)
    with pytest.raises(RegistryUnavailable, match=said) as raised:
        fetch(registry.url, by_id(9))
    assert "/schemas/ids/9" in str(raised.value)


def test_a_redirect_says_where_it_leads(registry: StandIn) -> None:
    registry.instead = lambda _path: (301, b"")
    registry.headers = {"Location": "https://name:word@registry.example/schemas/ids/9?token=x"}
    with pytest.raises(RegistryUnavailable, match=r"301; a redirect to https://registry\.example, which is not"):
        fetch(registry.url, by_id(9))


@pytest.mark.parametrize(
    ("status", "body", "raised", "said"),
    [
        (404, b'{"error_code":404,"message":"HTTP 404 Not Found"}', NoSuchSchema, "404 404: HTTP 404 Not Found$"),
        (404, b"<html>", NoSuchSchema, "/schemas/ids/2147483648: 404$"),
        (400, b"", NoSuchSchema, "400"),
        (422, b'{"error_code":422,"message":"no int32"}', NoSuchSchema, "422 422: no int32"),
        (200, b'{"schema":5}', NoSuchSchema, "not that of a schema registry"),
        (200, b'{"schema":"' + b"x" * (2 << 20) + b'"}', UnusableSchema, "longer than"),
        (401, b"", RegistryUnavailable, "401"),
        (403, b"", RegistryUnavailable, "403"),
        (408, b"", RegistryUnavailable, "408"),
        (429, b"", RegistryUnavailable, "429"),
        (500, b"", RegistryUnavailable, "500"),
    ],
)
def test_an_answer_for_one_schema_is_about_it_while_the_registry_answers_for_others(
    registry: StandIn, status: int, body: bytes, raised: type[Exception], said: str
) -> None:
    registry.instead = lambda path: (status, body) if path.endswith("/2147483648") else UNKNOWN
    with pytest.raises(raised, match=said):
        fetch(registry.url, by_id(2**31))


@pytest.mark.parametrize("unknown_address", [(404, b"<html>"), NO_SUCH_ADDRESS], ids=["a page", "Apicurio's"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_way_that_the_registry_does_not_have_costs_the_records_that_name_it_and_only_while_it_is_there(
    registry: StandIn, unknown_address: tuple[int, bytes], is_there: bool
) -> None:
    """It knows schemas by their id, and has no address for GUIDs or global ids. Any record may name one."""
    registry.instead = lambda path: UNKNOWN if is_there and "/schemas/ids/" in path else unknown_address
    raised = NoSuchSchema if is_there else RegistryUnavailable
    with pytest.raises(raised, match=r"only some registries know schemas by their GUID"):
        fetch(registry.url, SchemaId(Kind.GUID, GUID))
    with pytest.raises(raised, match=r"/v3/.*/v2/.*need Apicurio's own API, which is not there"):
        fetch(f"{registry.url}/apis/ccompat/v7", SchemaId(Kind.GLOBAL_ID, "7"))


def test_a_guid_that_the_registry_cannot_parse_costs_only_its_records(registry: StandIn) -> None:
    registry.instead = lambda path: (404, b"<html>") if GUID in path else UNKNOWN
    with pytest.raises(NoSuchSchema, match="only some registries know schemas by their GUID"):
        fetch(registry.url, SchemaId(Kind.GUID, GUID))


def test_a_guid_that_the_registry_does_not_answer_for_says_that_not_all_know_them_and_what_to_check(
    registry: StandIn,
) -> None:
    registry.instead = lambda _path: (404, b"")
    said = "only some registries know schemas by their GUID.*check the path in registry.url"
    with pytest.raises(RegistryUnavailable, match=said):
        fetch(registry.url, SchemaId(Kind.GUID, GUID))


def test_a_registry_that_is_not_there_and_one_that_does_not_answer(registry: StandIn) -> None:
    with stand_in() as gone:
        url = gone.url
    with pytest.raises(RegistryUnavailable, match="connecting"):
        fetch(url, by_id(1))
    released = threading.Event()
    registry.instead = lambda _path: (200 + released.wait(20), b"")
    with pytest.raises(RegistryUnavailable, match=r"waiting for the answer.*within 0.2 s"):
        fetch(registry.url, by_id(1), timeout_seconds=0.2)
    released.set()


@pytest.mark.parametrize(
    ("login", "header"),
    [
        ({"username": "käthe", "password": "p:ä"}, basic("käthe", "p:ä")),
        ({"username": "user"}, basic("user", "")),
        ({"token": "abc"}, "Bearer abc"),
        ({}, None),
    ],
)
def test_the_login_goes_with_every_request(registry: StandIn, login: dict[str, str], header: str | None) -> None:
    registry.register(AVRO)
    registry.wanted_login = header
    fetch(registry.url, by_id(1), **login)
    with pytest.raises(NoSuchSchema):
        fetch(registry.url, by_id(2), **login)
    assert registry.logins == [header, header]


def test_no_message_quotes_the_login(registry: StandIn) -> None:
    registry.wanted_login = "another"
    with pytest.raises(RegistryUnavailable) as raised:
        fetch(registry.url, by_id(1), username="user", password="sesame-open")
    assert "sesame" not in str(raised.value)


def test_a_probe_asks_what_the_worker_asks(registry: StandIn) -> None:
    client = RegistryClient(Registry(url=registry.url))
    client.probe()
    registry.instead = lambda _path: (403, b"")
    with pytest.raises(RegistryUnavailable, match="403"):
        client.probe()
    client.close()


@pytest.mark.parametrize("is_trusted", [True, False])
def test_certificates_are_checked_by_the_file_of_the_settings(
    registry: StandIn, tmp_path: Path, is_trusted: bool
) -> None:
    registry.register(AVRO)
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    registry.socket = context.wrap_socket(registry.socket, server_side=True, do_handshake_on_connect=False)
    (authority if is_trusted else other).cert_pem.write_to_path(tmp_path / "ca.pem")
    url = registry.url.replace("http:", "https:")
    if is_trusted:
        assert fetch(url, by_id(1), ca_file=str(tmp_path / "ca.pem")).kind == "AVRO"
    else:
        with pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(url, by_id(1), ca_file=str(tmp_path / "ca.pem"))


def test_a_global_id_needs_the_address_of_apicurio(registry: StandIn) -> None:
    with pytest.raises(UnusableSchema, match="/apis/ccompat/"):
        fetch(registry.url, SchemaId(Kind.GLOBAL_ID, "5"))
    assert registry.asked == []


def apicurio(registry: StandIn, api: str, content: str = OWN) -> str:
    """Have it answer as Apicurio does whose own API is of this version. Returns its address."""
    ids = f"/apis/registry/{api}/ids/globalIds"
    answers = {
        f"{ids}/5?returnArtifactType=true": content.encode(),
        f"{ids}/5/references": b'[{"artifactId":"common","version":"1","name":"A","groupId":null}]',
        "/apis/ccompat/v7/subjects/common/versions/1?deleted=true": b'{"schema":"{}","schemaType":null,"references":null}',
    }

    def answer(path: str) -> tuple[int, bytes]:
        if path in answers:
            return 200, answers[path]
        if "/schemas/ids/" in path:
            return UNKNOWN
        return NO_SUCH_ARTIFACT if path.startswith(ids) else NO_SUCH_ADDRESS

    registry.instead = answer
    return f"{registry.url}/apis/ccompat/v7"


@pytest.mark.parametrize("api", ["v3", "v2"])
def test_a_global_id_is_asked_for_at_apicurios_own_api(registry: StandIn, api: str) -> None:
    url = apicurio(registry, api)
    assert fetch(url, SchemaId(Kind.GLOBAL_ID, "5")) == SchemaText("AVRO", OWN, (("A", "{}"),))
    with pytest.raises(NoSuchSchema):
        fetch(url, SchemaId(Kind.GLOBAL_ID, "6"))


def test_a_global_id_beyond_what_apicurio_parses_costs_only_its_records(registry: StandIn) -> None:
    url = apicurio(registry, "v2")
    known, beyond = registry.instead, 2**64 - 1
    assert known is not None
    registry.instead = lambda path: NO_SUCH_ADDRESS if str(beyond) in path else known(path)
    with pytest.raises(NoSuchSchema, match=f"/apis/registry/v2/ids/globalIds/{beyond}"):
        fetch(url, SchemaId(Kind.GLOBAL_ID, str(beyond)))


def test_an_apicurio_that_does_not_say_what_a_schema_refers_to_is_of_no_use_for_global_ids(registry: StandIn) -> None:
    url = apicurio(registry, "v2")
    known = registry.instead
    assert known is not None
    registry.instead = lambda path: NO_SUCH_ADDRESS if path.endswith("/references") else known(path)
    with pytest.raises(NoSuchSchema, match="/v2/ids/globalIds/5/references"):
        fetch(url, SchemaId(Kind.GLOBAL_ID, "5"))


@pytest.mark.parametrize(
    ("content", "said", "kind"),
    [
        (OWN, "", "AVRO"),
        ('["null", "string"]', "", "AVRO"),
        ('"string"', "", "AVRO"),
        ('{"type":"double"}', "", "AVRO"),
        ('{"type":"array","items":"float"}', "", "AVRO"),
        ('{"type":"array","items":{"type":"array","items":{"type":"record","name":"A","fields":[]}}}', "", "AVRO"),
        ('{"type":"array","items":["null","string"]}', "", "AVRO"),
        ('{"type":["null",{"type":"array","items":"float"}]}', "", "AVRO"),
        ('{"type":{"type":"string"}}', "", "AVRO"),
        ('{"type":[["null"]]}', "", "AVRO"),
        ('{"type":[null,5]}', "", "AVRO"),
        ('{"type":"array","items":{"type":"number"}}', "", "JSON"),
        ('{"type":"array","items":[{"type":"number"}]}', "", "JSON"),
        ('{"type":["null","object"]}', "", "JSON"),
        ('{"type":"array"}', "", "JSON"),
        ('{"type":"object"}', "", "JSON"),
        ('{"$schema":"http://json-schema.org/draft-07/schema#"}', "", "JSON"),
        ("true", "", "JSON"),
        (PROTOBUF, "", "PROTOBUF"),
        (OWN, "JSON", "JSON"),
    ],
)
def test_the_type_of_a_global_ids_schema_is_what_apicurio_says_or_what_it_looks_like(
    registry: StandIn, content: str, said: str, kind: str
) -> None:
    url = apicurio(registry, "v2", content)
    registry.headers = {"x-registry-artifacttype": said} if said else {}
    assert fetch(url, SchemaId(Kind.GLOBAL_ID, "5")).kind == kind


def test_an_outage_of_apicurios_own_api_is_not_asked_of_another_version(registry: StandIn) -> None:
    registry.instead = lambda _path: (503, b"")
    with pytest.raises(RegistryUnavailable, match="503"):
        fetch(f"{registry.url}/apis/ccompat/v7", SchemaId(Kind.GLOBAL_ID, "5"))
    assert len(registry.asked) == 1
