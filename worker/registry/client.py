"""Asks a schema registry for schemas: Confluent's API, which Karapace, Redpanda and Apicurio (`/apis/ccompat/v7`) have too.

    GET /schemas/ids/ID                        a schema by its id
    GET /schemas/guids/GUID                    by its GUID, which Confluent's registry has from version 8 on
    GET /subjects/SUBJECT/versions/VERSION     a schema that another one refers to, with ?deleted=true: also where it was deleted
                                               softly. Karapace and Redpanda know that too, Apicurio ignores it

Apicurio's global ids are asked for at its own API beside that: `/apis/registry/v3/ids/globalIds/ID`, and where that version of
the API is not there (Apicurio Registry 2.x), at `/apis/registry/v2`.

Whether a request failed because of the registry or of what it asked for is decided by a second one. A message can name any
number or GUID, and what a registry says of one that it cannot parse is often the generic error of its web server. So after an
answer that may be about the schema, the registry is asked for something that none has, in the same way. If it answers that in
its own form, it is there, and the first answer is about that schema alone. If not, the registry is away, or has no such way.
Which of both is asked likewise, with an id: each record says itself in which way its schema is to be had.
"""

import base64
import http.client
import json
import time
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import quote
from uuid import UUID

import msgspec
from urllib3.exceptions import HTTPError

from worker.errors import RegistryUnavailable, place_of
from worker.oss.answers import Answer, header, redirected_to
from worker.oss.exchange import Exchanges
from worker.oss.failures import error_of_connection
from worker.oss.http import Connections
from worker.records.formats.framing import Kind, SchemaId
from worker.records.formats.values import UNREADABLE
from worker.settings.tables import Registry
from worker.words import clean

_MOST_BYTES: Final = 1 << 20  # of one answer
_MOST_REFERENCES: Final = 100  # of one schema, all together
_MOST_CHARACTERS: Final = 4 << 20  # likewise
_ACCEPTED: Final = "application/vnd.schemaregistry.v1+json, application/json"
_NO_SUCH_SCHEMA: Final = 40403
_APICURIO_COMPATIBLE: Final = "/apis/ccompat/"
_APICURIO_APIS: Final = ("v3", "v2")
# Names of Apicurio's errors end so (ArtifactNotFoundException, VersionNotFoundException). The name alone is that of an address
# that it does not have, as of v3 in Apicurio 2.x.
_APICURIO_NOT_FOUND: Final = "NotFoundException"
_APICURIO_TYPE: Final = "X-Registry-ArtifactType"  # a header, from Apicurio 3 on
_NOT_ALL_KNOW: Final = " (only some registries know schemas by their GUID)"
_ABSENT_ID: Final = f"/schemas/ids/{2**31 - 1}"  # an id that no registry has given yet
_ABSENT_GUID: Final = f"/schemas/guids/{UUID(int=0)}"
_ABSENT_GLOBAL_ID: Final = 2**53 - 1
_ABSENT_SUBJECT: Final = "/subjects/oss-vectors-worker-asks-whether-the-registry-is-there/versions/1"
# Types that JSON Schema does not have.
_ONLY_IN_AVRO: Final = frozenset(("record", "error", "enum", "fixed", "map", "int", "long", "float", "double", "bytes"))
_NOT_OF_ONE_SCHEMA: Final = frozenset((401, 403, 407, 408, 429))  # the login, or the registry at this moment
_SHOWN_CHARACTERS: Final = 200


class NoSuchSchema(Exception):
    """The registry is there and does not give the schema. The message says what it answered, "" if just that."""


class UnusableSchema(Exception):
    """A schema that cannot be used to read anything, whoever asks for it. The message says why."""


class UnusableForNow(UnusableSchema):
    """One that could not be looked at because something else on this machine ended the attempt. It may be usable a while later."""


class _Doubtful(RegistryUnavailable):
    """An answer that is about the one schema, if the registry is there."""

    def __init__(self, answered: str, advice: str = "", *, verdict: type[Exception] = NoSuchSchema) -> None:
        super().__init__(f"{answered}{advice}")
        self.answered = answered
        self.advice = advice
        self.verdict = verdict  # what to raise if the registry is there


class SchemaText(NamedTuple):
    """A schema as it was registered. `kind` is AVRO, PROTOBUF or JSON.

    `references` are name and text of all that it refers to, also through others; each comes behind what it refers to itself.
    """

    kind: str
    text: str
    references: tuple[tuple[str, str], ...] = ()


class _Reference(msgspec.Struct):
    name: str
    subject: str = ""
    version: int | str = 0
    artifactId: str = ""  # noqa: N815 - Apicurio's name
    groupId: str | None = None  # noqa: N815 - likewise


class _Answered(msgspec.Struct):
    schema: str
    schemaType: str | None = None  # noqa: N815 - the API's name
    references: list[_Reference] | None = None


class _Refusal(msgspec.Struct):
    error_code: int | None = None
    message: str | None = None
    name: str | None = None  # Apicurio's own API
    title: str | None = None  # likewise


class _Way(NamedTuple):
    endpoint: str
    ca_file: str
    connect_timeout_seconds: float
    write_timeout_seconds: float
    read_timeout_seconds: float
    proxy_url: str = ""


class RegistryClient:
    """Asks one registry, by the settings of `[registry]`. Thread-safe. No request takes longer than twice its time-out."""

    def __init__(self, settings: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = settings.url.rstrip("/")
        self._headers = {"Accept": _ACCEPTED, "User-Agent": "oss-vectors-worker", **_login(settings)}
        self._exchanges = Exchanges()
        seconds = settings.timeout_seconds
        way = _Way(settings.url, settings.ca_file, seconds, seconds, seconds)
        self._connections = Connections(way, self._exchanges, 2, clock, _MOST_BYTES)

    def fetch(self, schema: SchemaId) -> SchemaText:
        """Return a schema, with all that it refers to.

        Raises `NoSuchSchema`, `UnusableSchema`, and `RegistryUnavailable` where the registry gives no answer, or denies.
        """
        found = self._by_id(schema)
        references: dict[str, str] = {}
        self._add_references(found, references, [str(schema)])
        return SchemaText(found.schemaType or "AVRO", found.schema, tuple(references.items()))

    def probe(self) -> None:
        """Ask for a schema, whether there is one or not, as the worker will. Raises `RegistryUnavailable`."""
        try:
            self._read(f"{self._url}{_ABSENT_ID}")
        except NoSuchSchema:
            return

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def _by_id(self, schema: SchemaId) -> _Answered:
        if schema.kind in (Kind.ID, Kind.CONTENT_ID):
            return self._asked(f"/schemas/ids/{schema.text}")
        try:
            return self._by_guid(schema.text) if schema.kind is Kind.GUID else self._by_global_id(schema.text)
        except _Doubtful as doubt:
            # Any record may name a GUID or a global id: where others are answered, that is its own fault.
            raise self._judged(doubt, f"{self._url}{_ABSENT_ID}") from None

    def _by_guid(self, guid: str) -> _Answered:
        try:
            return self._asked(f"/schemas/guids/{guid}", _ABSENT_GUID)
        except _Doubtful as doubt:
            raise _Doubtful(f"{doubt.answered}{_NOT_ALL_KNOW}", doubt.advice) from None
        except (RegistryUnavailable, NoSuchSchema) as error:
            if not str(error):
                raise
            raise type(error)(f"{error}{_NOT_ALL_KNOW}") from None

    def _by_global_id(self, number: str) -> _Answered:
        root, compatible, _ = self._url.partition(_APICURIO_COMPATIBLE)
        if not compatible:
            raise UnusableSchema(
                f"an Apicurio global id needs registry.url to be that of Apicurio, with {_APICURIO_COMPATIBLE}v7 in it"
            )
        answered = []
        for api in _APICURIO_APIS:
            try:
                return self._of_apicurio(f"{root}/apis/registry/{api}/ids/globalIds", number)
            except _Doubtful as doubt:
                answered.append(doubt.answered)
        raise _Doubtful(f"{', '.join(answered)}; global ids need Apicurio's own API, which is not there")

    def _of_apicurio(self, ids: str, number: str) -> _Answered:
        """Return a schema by its global id. Raises `_Doubtful` where this version of the API is not there."""
        content = self._present(ids, number, "?returnArtifactType=true")
        references = self._present(ids, number, "/references")
        try:
            text = (content.body or b"").decode()
            found = msgspec.json.decode(references.body or b"", type=list[_Reference])
        except UNREADABLE as error:
            doubt = _no_schema(f"{ids}/{number}", content, error)
            raise self._judged(doubt, f"{ids}/{_ABSENT_GLOBAL_ID}") from None
        for each in found:
            if each.groupId not in (None, "", "default"):
                raise UnusableSchema(f"it refers to {each.name} of the group {each.groupId}; only default is read")
            each.subject = each.artifactId
        return _Answered(text, header(content.headers, _APICURIO_TYPE) or _kind_of(text), found)

    def _present(self, ids: str, number: str, what: str) -> Answer:
        """Return what Apicurio has of a global id. Raises `_Doubtful` where it does not know of an absent one either."""
        try:
            return self._get(f"{ids}/{number}{what}")
        except _Doubtful as doubt:
            raise self._judged(doubt, f"{ids}/{_ABSENT_GLOBAL_ID}{what}") from None

    def _add_references(self, schema: _Answered, known: dict[str, str], way: list[str]) -> None:
        """Add what a schema refers to, each behind what it refers to itself."""
        for each in schema.references or ():
            if each.name in known:
                continue
            if len(known) + len(way) > _MOST_REFERENCES:
                raise UnusableSchema(f"it refers to more than {_MOST_REFERENCES} others")
            if each.name in way:
                raise UnusableSchema(f"{each.name} refers to itself")
            path = f"/subjects/{quote(each.subject, safe='')}/versions/{quote(str(each.version), safe='')}?deleted=true"
            try:
                found = self._asked(path, _ABSENT_SUBJECT)
            except NoSuchSchema as error:
                said = f": {error}" if str(error) else ""
                raise NoSuchSchema(
                    f"{self._url}{path}: the registry does not have what {way[0]} refers to as "
                    f"{clean(each.name, _SHOWN_CHARACTERS)}{said}"
                ) from None
            self._add_references(found, known, [*way, each.name])
            known[each.name] = found.schema
            if sum(map(len, known.values())) > _MOST_CHARACTERS:
                raise UnusableSchema(f"what it refers to has more than {_MOST_CHARACTERS} characters")

    def _asked(self, path: str, absent: str = _ABSENT_ID) -> _Answered:
        """Return a schema. What is asked for at `absent` no registry has: if it says so, an answer of no use is about the schema."""
        try:
            return self._read(f"{self._url}{path}")
        except _Doubtful as doubt:
            raise self._judged(doubt, f"{self._url}{absent}") from None

    def _judged(self, doubt: _Doubtful, absent: str) -> Exception:
        """Return what to raise for a doubtful answer, now that the registry is asked whether it is there, and has this way."""
        try:
            self._read(absent)
        except NoSuchSchema:
            pass
        except RegistryUnavailable:
            return doubt
        return doubt.verdict(doubt.answered)

    def _read(self, url: str) -> _Answered:
        answer = self._get(url)
        try:
            return msgspec.json.decode(answer.body or b"", type=_Answered)
        except UNREADABLE as error:
            raise _no_schema(url, answer, error) from None

    def _get(self, url: str) -> Answer:
        """Return an answer of 200. Raises `NoSuchSchema` and `RegistryUnavailable`, `_Doubtful` where it may be about the schema."""
        with self._exchanges.open() as exchange:
            try:
                answer = self._connections.get(url, self._headers, exchange)
            except (OSError, HTTPError, http.client.HTTPException) as failure:
                error = error_of_connection(failure, url, exchange.phase)
                raise RegistryUnavailable(clean(error.message)) from None
            except Exception as failure:
                # Its text may have the login in it; the place where it was raised is enough.
                unforeseen = f"{type(failure).__name__} at {place_of(failure)}"
                raise RegistryUnavailable(f"{url}: unforeseen {unforeseen}") from failure
        if answer.status != 200:
            raise _refused(url, answer)
        if answer.body is None:
            raise _Doubtful(f"{url}: 200: the answer is longer than {_MOST_BYTES} bytes", verdict=UnusableSchema)
        return answer


def _login(settings: Registry) -> dict[str, str]:
    if settings.token:
        return {"Authorization": f"Bearer {settings.token}"}
    if settings.username:
        login = base64.b64encode(f"{settings.username}:{settings.password}".encode()).decode()
        return {"Authorization": f"Basic {login}"}
    return {}


def _refusal(answer: Answer) -> _Refusal:
    try:
        return msgspec.json.decode(answer.body or b"", type=_Refusal)
    except UNREADABLE:
        return _Refusal()


def _kind_of(text: str) -> str:
    """Return the type of a schema of which Apicurio 2.x, and 3.0 at first, do not say it."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        return "PROTOBUF"
    return "AVRO" if isinstance(schema, (list, str)) or _is_avro(schema) else "JSON"


def _is_avro(schema: object) -> bool:
    """Return whether a schema has a type that JSON Schema does not have, or the elements of its array have."""
    while isinstance(schema, dict):
        kind = schema.get("type")
        if isinstance(kind, (dict, list)):  # JSON Schema has names of types in a list, and no schemas
            return isinstance(kind, dict) or any(not isinstance(each, str) or each in _ONLY_IN_AVRO for each in kind)
        if kind != "array":
            return kind in _ONLY_IN_AVRO
        schema = schema.get("items")
    return isinstance(schema, str) or (isinstance(schema, list) and any(isinstance(each, str) for each in schema))


def _no_schema(url: str, answer: Answer, error: Exception) -> _Doubtful:
    said = clean(str(error), _SHOWN_CHARACTERS)
    return _Doubtful(f"{url}: the answer {answer.status} is not that of a schema registry: {said}")


def _refused(url: str, answer: Answer) -> Exception:
    """Return what to raise for an answer that is not 200."""
    status, refusal = answer.status, _refusal(answer)
    number, name = refusal.error_code or 0, refusal.name or ""
    is_apicurios = name.endswith(_APICURIO_NOT_FOUND) and name != _APICURIO_NOT_FOUND
    if status == 404 and (number // 100 == _NO_SUCH_SCHEMA // 100 or is_apicurios):
        return NoSuchSchema()
    said = clean(refusal.message or refusal.title or "", _SHOWN_CHARACTERS)
    answered = f"{url}: {status}" + (f" {number}" if number else "")
    answered += f": {said}" if said else ""
    advice = {
        401: "; the registry refuses the login: check registry.username and registry.password, or registry.token",
        403: "; the registry denies the login this schema",
        404: "; this is no schema registry's answer: check the path in registry.url",
    }.get(status, "")
    if 300 <= status <= 399:
        advice = f"; a redirect{redirected_to(answer)}, which is not followed: check registry.url"
    if 400 <= status < 500 and status not in _NOT_OF_ONE_SCHEMA:
        return _Doubtful(answered, advice)
    return RegistryUnavailable(f"{answered}{advice}")
