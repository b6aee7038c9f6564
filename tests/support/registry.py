"""A stand-in for a schema registry on 127.0.0.1, which speaks the part of Confluent's API that the worker uses.

It answers as Confluent's documentation says: `{"schema", "schemaType", "references"}`, the type left out for Avro; errors as
`{"error_code", "message"}`. It keeps what it was asked, and answers as a test sets it.
"""

import base64
import io
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import unquote

import fastavro

from tests.support.bounded import join, thread
from worker.records.formats.framing import Kind, SchemaId
from worker.registry.client import SchemaText

NAMESPACE: Final = uuid.UUID("12345678-1234-5678-1234-567812345678")

AVRO: Final = {
    "type": "record",
    "name": "Record",
    "namespace": "com.example",
    "fields": [
        {"name": "key", "type": ["null", "string"]},
        {
            "name": "data",
            "type": {
                "type": "record",
                "name": "Data",
                "fields": [{"name": "float32", "type": {"type": "array", "items": "float"}}],
            },
        },
        {"name": "metadata", "type": ["null", {"type": "map", "values": "string"}], "default": None},
    ],
}
"""A record of the worker's own shape in Avro."""
PROTOBUF: Final = """\
syntax = "proto3";
package com.example;
message Envelope {
  message Record {
    message Data { repeated float float32 = 1; }
    string key = 1;
    Data data = 2;
    map<string, string> metadata = 3;
  }
}
"""
"""The same in Protobuf, as a message in another: its message indexes are 0, 0."""
OF_RECORD: Final = b"\x04\x00\x00"
"""These indexes: how many, then each, all zigzag."""


def avro(schema: Any, value: Any) -> bytes:
    """Return a value in Avro, written by fastavro."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def prefix(number: int) -> bytes:
    """Return the five bytes before a body."""
    return b"\0" + number.to_bytes(4, "big")


def by_id(number: int) -> SchemaId:
    """Return the name of a schema by its id."""
    return SchemaId(Kind.ID, str(number))


class StandIn(ThreadingHTTPServer):
    """The registry: schemas by id, GUID, and subject and version."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[tuple[str, int], int] = {}
        self.deleted: set[str] = set()  # subjects, softly: who asks for deleted ones still gets them
        self.asked: list[str] = []
        self.logins: list[str | None] = []
        self.instead: Callable[[str], tuple[int, bytes]] | None = None
        """What answers in its place: the status and the body for a path."""
        self.headers: dict[str, str] = {}  # of every answer, besides those that each has
        self.wanted_login: str | None = None
        self.change = threading.Condition()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def register(
        self,
        schema: Any,
        kind: str = "AVRO",
        subject: str = "vectors-value",
        references: Sequence[Mapping[str, Any]] = (),
    ) -> int:
        """Keep a schema, and return its id."""
        number = len(self.schemas) + 1
        entry: dict[str, Any] = {"schema": schema if isinstance(schema, str) else json.dumps(schema)}
        entry |= {} if kind == "AVRO" else {"schemaType": kind}
        entry |= {"references": list(references)} if references else {}
        self.schemas[number] = entry
        version = 1 + max((each for name, each in self.subjects if name == subject), default=0)
        self.subjects[subject, version] = number
        return number

    @staticmethod
    def guid_of(number: int) -> uuid.UUID:
        """Return the GUID of a schema."""
        return uuid.uuid5(NAMESPACE, str(number))

    def answer(self, path: str, login: str | None) -> tuple[int, bytes]:
        """Return status and body."""
        with self.change:
            self.asked.append(path)
            self.logins.append(login)
            self.change.notify_all()
        if self.instead is not None:
            return self.instead(path)
        if self.wanted_login is not None and login != self.wanted_login:
            return 401, b'{"error_code":401,"message":"Unauthorized"}'
        place, _, query = path.partition("?")
        return self._found([unquote(part) for part in place.strip("/").split("/")], query == "deleted=true")

    def _found(self, parts: list[str], with_deleted: bool) -> tuple[int, bytes]:
        found: int | None
        if parts[:2] == ["schemas", "ids"]:
            number = int(parts[2])
            return self._entry(number if number in self.schemas else None, 40403, f"Schema {number} not found")
        if parts[:2] == ["schemas", "guids"]:
            found = next((each for each in self.schemas if str(self.guid_of(each)) == parts[2]), None)
            return self._entry(found, 40403, f"Schema {parts[2]} not found")
        if parts[0] == "subjects" and parts[2:3] == ["versions"]:
            is_there = with_deleted or parts[1] not in self.deleted
            found = self.subjects.get((parts[1], int(parts[3]))) if is_there else None
            return self._entry(found, 40401, f"Subject '{parts[1]}' not found.")
        return 404, b'{"error_code":404,"message":"HTTP 404 Not Found"}'

    def _entry(self, number: int | None, code: int, message: str) -> tuple[int, bytes]:
        if number is None:
            return 404, json.dumps({"error_code": code, "message": message}).encode()
        return 200, json.dumps(self.schemas[number]).encode()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        status, body = self.server.answer(self.path, self.headers.get("Authorization"))
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """Yield a registry that answers until the end."""
    with StandIn() as server:
        serving = thread(lambda: server.serve_forever(poll_interval=0.02))
        try:
            yield server
        finally:
            server.shutdown()
            join(serving)


def basic(username: str, password: str) -> str:
    """Return the header of a login."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


class FakeSource:
    """Gives schemas without a network; raises what a test puts in the place of one. It keeps what it was asked."""

    def __init__(self) -> None:
        self.schemas: dict[SchemaId, SchemaText | Exception] = {}
        self.asked: list[SchemaId] = []

    def fetch(self, schema: SchemaId) -> SchemaText:
        """Return what the test says."""
        self.asked.append(schema)
        found = self.schemas[schema]
        if isinstance(found, Exception):
            raise found
        return found
