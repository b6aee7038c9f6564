"""One request to the OSS vector service, from its headers to its answer."""

import asyncio
import contextlib
import datetime as dt
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from worker.local.emulator import descriptions, operations, rules, signature
from worker.local.emulator.answers import Rendered, answer_of, error_answer
from worker.local.emulator.control import Entry, Journal
from worker.local.emulator.errors import Refusal, invalid
from worker.local.emulator.faults import Adjustments, Effective, Faults, Rule, code_of
from worker.local.emulator.store import Store, make_token, metadata_of, numbers_of, read_token

R = TypeVar("R")


@dataclass(frozen=True)
class _Answer:
    status: int
    body: object = None
    applied: bool = False
    change: "_Change | None" = None


class _Change(NamedTuple):
    """What a request changed of the vectors: its number among all changes, how many keys, and each put's first number."""

    number: int
    keys: int
    firsts: list[float]


@dataclass
class _Call:
    """A verified request. `body`: the decoded body. `share`: the part of its vectors or keys to apply."""

    operation: str
    account: str
    bucket: str
    region: str
    query: Mapping[str, str]
    body: Any
    non_finite: bool
    limits: Effective
    share: float = 1.0


@dataclass(frozen=True)
class _Drip:
    """An answer that goes out in small pieces, one each so many seconds."""

    answer: Rendered
    what: Literal["headers", "body", "continue"]
    seconds: float

    @property
    def status_code(self) -> int:
        return self.answer.status

    def pieces(self) -> Iterator[bytes]:
        """What to write, piece by piece."""
        if self.what == "continue":
            yield from itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n")
        status, headers, content = self.answer
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = f"HTTP/1.1 {status} Dripped\r\n{''.join(lines)}Content-Length: {len(content)}\r\n\r\n".encode("latin-1")
        whole, slow = (b"", head + content) if self.what == "headers" else (head, content)
        if whole:
            yield whole
        for place in range(len(slow)):
            yield slow[place : place + 1]


class NoAnswer(Exception):
    """The connection is to be reset instead of an answer."""


class Service:
    """The service as an ASGI application.

    `reset` in the scope's state resets the connection of a request, `write` writes bytes to it past the server.
    """

    def __init__(
        self, store: Store, faults: Faults, adjustments: Adjustments, journal: Journal, keys: signature.AccessKeys
    ) -> None:
        self._store = store
        self._faults = faults
        self._adjustments = adjustments
        self._journal = journal
        self._keys = keys
        # Decoding, checking and writing run on threads, so that the event loop continues to read other requests.
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="emulator")
        self._stopping = asyncio.Event()
        self._operations: dict[str, Callable[[_Call], _Answer]] = {
            "PutVectors": self._put_vectors,
            "DeleteVectors": self._delete_vectors,
            "GetVectors": self._get_vectors,
            "ListVectors": self._list_vectors,
            "QueryVectors": self._query_vectors,
            "PutVectorIndex": self._put_index,
            "GetVectorIndex": self._get_index,
            "ListVectorIndexes": self._list_indexes,
            "DeleteVectorIndex": self._delete_index,
            "PutVectorBucket": self._put_bucket,
            "GetVectorBucket": self._get_bucket,
            "ListVectorBuckets": self._list_buckets,
            "DeleteVectorBucket": self._delete_bucket,
        }

    def stop(self) -> None:
        """End requests that wait: a slow one continues at once, one that hangs is reset."""
        self._stopping.set()

    def close(self) -> None:
        """Wait for the threads, after the last request."""
        self._threads.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or reset its connection."""
        request = Request(scope, receive)
        entry = self._journal.open()
        entry.request_id = secrets.token_hex(12).upper()
        try:
            response = await self._respond(request, entry)
            entry.status = response.status_code
        except (NoAnswer, ClientDisconnect):
            response = None
        finally:
            entry.ended = time.monotonic()
        if isinstance(response, _Drip):
            await self._drip(request, response)
        if isinstance(response, Response):
            await response(scope, receive, send)
        else:
            request.state.reset()
            await _disconnected(receive)

    async def _drip(self, request: Request, drip: "_Drip") -> None:
        """Give an answer out byte by byte, past the server, which knows nothing of it; until the client goes."""
        gone = asyncio.ensure_future(_disconnected(request.receive))
        for piece in drip.pieces():
            request.state.write(piece)
            await asyncio.wait({gone}, timeout=drip.seconds)
            if gone.done() or self._stopping.is_set():
                break
        gone.cancel()

    async def _respond(self, request: Request, entry: Entry) -> "Response | _Drip":
        try:
            answer = await self._answer(request, entry)
        except Refusal as refusal:
            entry.code = refusal.code
            return _response(
                error_answer(
                    refusal.status, refusal.code, refusal.message, request_id=entry.request_id, host=_host(request)
                )
            )
        if isinstance(answer, Rule):
            entry.code = code_of(answer)
            rendered = answer_of(answer, request_id=entry.request_id, host=_host(request))
            return _response(rendered) if answer.drip is None else _Drip(rendered, answer.drip, answer.drip_seconds)
        entry.applied = entry.applied or answer.applied
        if answer.body is None:
            return Response(status_code=answer.status, headers={"x-oss-request-id": entry.request_id})
        content = orjson.dumps(answer.body, option=orjson.OPT_SERIALIZE_NUMPY)
        return _json(content, answer.status, entry.request_id)

    async def _answer(self, request: Request, entry: Entry) -> _Answer | Rule:
        """The operation's answer, or the rule that answers instead."""
        account, bucket = operations.target_of(request.headers.get("host", ""))
        query = dict(request.query_params)
        entry.operation, shape = operations.operation_of(request.method, request.url.path, query, bucket)
        entry.account, entry.bucket = account, bucket
        payload = await _read(request, self._adjustments.effective(bucket, None).max_body_bytes)
        entry.body_bytes = len(payload)
        region = self._verify(request, account, bucket)
        decoded = await self._in_thread(lambda: operations.decode(request.headers.get("content-md5"), payload, shape))
        if not isinstance(decoded, Refusal):
            self._journal.name(entry, *operations.names_of(decoded[0]))
        rule = self._faults.take(entry.operation, bucket, entry.index, entry.keys, payload)
        if rule is not None and not rule.hang:
            await self._wait(rule.latency_seconds)
        if rule is not None and rule.answers and rule.applies == "none":
            return await self._misbehave(request, rule)
        if isinstance(decoded, Refusal):
            raise decoded
        body, non_finite = decoded
        limits = self._adjustments.effective(bucket, entry.index)
        share = 0.5 if rule is not None and rule.applies == "half" else 1.0
        call = _Call(entry.operation, account or "", bucket or "", region, query, body, non_finite, limits, share)
        if entry.operation in {"PutVectors", "DeleteVectors"}:
            self._adjustments.spend((account, bucket, entry.index), call.limits, len(entry.keys))
        answer = await self._in_thread(lambda: self._perform(call))
        if answer.change is not None:
            entry.change, entry.changed_keys, entry.firsts = answer.change
        if rule is None or not rule.answers:
            return answer
        entry.applied = answer.applied
        return await self._misbehave(request, rule)

    def _verify(self, request: Request, account: str | None, bucket: str | None) -> str:
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        signed = signature.SignedRequest(request.method, request.url.query, headers, account, bucket)
        return signature.verify(signed, self._keys, dt.datetime.now(dt.UTC))

    async def _in_thread(self, function: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _misbehave(self, request: Request, rule: Rule) -> Rule:
        """Answer by the rule, which has a status, hangs or resets."""
        if rule.hang:
            waiting = {
                asyncio.ensure_future(self._stopping.wait()),
                asyncio.ensure_future(_disconnected(request.receive)),
            }
            await asyncio.wait(waiting, timeout=rule.latency_seconds or None, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
        if rule.hang or rule.reset is not None:
            raise NoAnswer
        return rule

    # Operations: each runs on a thread, and changes the store once or raises Refusal.

    def _perform(self, call: _Call) -> _Answer:
        if call.operation != "ListVectorBuckets":
            rules.check_bucket_name(call.bucket)
        return self._operations[call.operation](call)

    def _index(self, call: _Call, *, writes: bool = False) -> rules.IndexConfig:
        self._store.bucket(call.account, call.bucket)
        name = rules.check_index_name(call.body.index_name)
        index = self._store.index(call.account, call.bucket, name)
        if writes and descriptions.is_creating(index, call.limits):
            raise Refusal(500, "InternalError", "We encountered an internal error. Please try again.")
        return index

    def _put_vectors(self, call: _Call) -> _Answer:
        index = self._index(call, writes=True)
        rows = rules.check_put(call.body, call.non_finite, index, call.limits.bad_vectors_status)
        part = dict(list(rows.items())[: round(len(rows) * call.share)])
        number = self._store.put(call.account, call.bucket, index.name, part, call.limits.visibility_seconds)
        firsts = [float(numbers_of(row)[0]) for row in part.values()]
        return _Answer(200, applied=True, change=_Change(number, len(part), firsts))

    def _delete_vectors(self, call: _Call) -> _Answer:
        index = self._index(call, writes=True)
        keys = rules.check_delete(call.body)
        part = keys[: round(len(keys) * call.share)]
        number = self._store.delete(call.account, call.bucket, index.name, part, call.limits.visibility_seconds)
        return _Answer(204, applied=True, change=_Change(number, len(part), []))

    def _get_vectors(self, call: _Call) -> _Answer:
        index = self._index(call)
        rows = self._store.get(call.account, call.bucket, index.name, rules.check_get(call.body))
        return _Answer(200, {"vectors": [descriptions.vector(key, row, call.body) for key, row in rows.items()]})

    def _list_vectors(self, call: _Call) -> _Answer:
        index = self._index(call)
        limit, segment = rules.check_max_results(call.body.max_results), rules.check_segment(call.body)
        rows, token = self._store.page(call.account, call.bucket, index.name, call.body.next_token, limit, segment)
        answer: dict[str, object] = {"vectors": [descriptions.vector(key, row, call.body) for key, row in rows.items()]}
        return _Answer(200, answer if token is None else answer | {"nextToken": token})

    def _query_vectors(self, call: _Call) -> _Answer:
        index = self._index(call)
        vector, top_k, where = rules.check_query(call.body, call.non_finite, index, call.limits.bad_vectors_status)
        vectors: list[dict[str, object]] = []
        for key, distance, row in self._store.search(call.account, call.bucket, index.name, vector, top_k, where):
            vectors.append({"key": key})
            if call.body.return_distance:
                vectors[-1]["distance"] = distance
            if call.body.return_metadata and row.metadata is not None:
                vectors[-1]["metadata"] = metadata_of(row)
        return _Answer(200, {"vectors": vectors})

    def _put_index(self, call: _Call) -> _Answer:
        self._store.bucket(call.account, call.bucket)
        self._store.put_index(call.account, call.bucket, rules.check_index(call.body, time.time()))
        return _Answer(200, applied=True)

    def _get_index(self, call: _Call) -> _Answer:
        index = self._index(call)
        return _Answer(200, {"index": descriptions.index_description(index, call.limits)})

    def _list_indexes(self, call: _Call) -> _Answer:
        limit = rules.check_max_results(call.body.max_results)
        after = read_token(call.body.next_token) or ""
        indexes = [
            index
            for index in self._store.indexes(call.account, call.bucket)
            if index.name.startswith(call.body.prefix) and index.name > after
        ]
        page = indexes[:limit]
        answer: dict[str, object] = {"indexes": [descriptions.index_description(index, call.limits) for index in page]}
        return _Answer(200, answer | ({"nextToken": make_token(page[-1].name)} if len(indexes) > limit else {}))

    def _delete_index(self, call: _Call) -> _Answer:
        self._store.bucket(call.account, call.bucket)
        name = rules.check_index_name(call.body.index_name)
        self._store.delete_index(call.account, call.bucket, name)
        return _Answer(204, applied=True)

    def _put_bucket(self, call: _Call) -> _Answer:
        self._store.put_bucket(call.account, call.bucket, call.region, time.time())
        return _Answer(200, applied=True)

    def _get_bucket(self, call: _Call) -> _Answer:
        return _Answer(
            200, {"BucketInfo": descriptions.bucket_description(self._store.bucket(call.account, call.bucket))}
        )

    def _list_buckets(self, call: _Call) -> _Answer:
        prefix, marker = call.query.get("prefix", ""), call.query.get("marker", "")
        text = call.query.get("max-keys", "100")
        if not text.isdecimal() or not 1 <= int(text) <= 1000:
            raise invalid("max-keys: expected 1 to 1000.")
        limit = int(text)
        found = [one for one in self._store.buckets() if one.name.startswith(prefix) and one.name > marker]
        page = found[:limit]
        result: dict[str, object] = {"Prefix": prefix, "Marker": marker, "MaxKeys": limit}
        result |= {"IsTruncated": len(found) > limit, "Buckets": [descriptions.bucket_description(one) for one in page]}
        if len(found) > limit:
            result["NextMarker"] = page[-1].name
        return _Answer(200, {"ListAllMyBucketsResult": result})

    def _delete_bucket(self, call: _Call) -> _Answer:
        self._store.delete_bucket(call.account, call.bucket)
        return _Answer(204, applied=True)


async def _read(request: Request, most: int) -> bytes:
    """The body. It is read to its end even when it is too large: a client that still sends would miss the answer."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most:
            chunks.append(chunk)
    if size > most:
        raise Refusal(413, "EntityTooLarge", f"The body has {size} bytes, more than {most}.")
    return b"".join(chunks)


def _json(content: bytes, status: int, request_id: str) -> Response:
    return Response(content, status, {"x-oss-request-id": request_id}, media_type="application/json")


def _host(request: Request) -> str:
    return request.headers.get("host", "")


def _response(answer: Rendered) -> Response:
    return Response(answer.content, answer.status, answer.headers)


async def _disconnected(receive: Receive) -> None:
    """Return when the connection is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
