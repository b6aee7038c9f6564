"""The control path of the emulator: plain HTTP without a signature, under `/_emulator/`, and the journal it shows.

    GET    /_emulator/health                 200 {"status": "ok"}
    POST   /_emulator/faults                 add a rule (fields: faults.Rule), answers {"id"}
    GET    /_emulator/faults                 {"faults": [{"id", "hits", "rule"}]}
    DELETE /_emulator/faults[?bucket=|?id=]  remove all rules, those of a bucket, or one
    POST   /_emulator/limits                 adjust limits (fields: faults.Limits)
    GET    /_emulator/limits                 {"limits": [..]}
    DELETE /_emulator/limits                 back to the defaults
    PUT    /_emulator/keys                   accept these access keys and no others (fields: Keys)
    GET    /_emulator/keys                   {"ids": [..]} of those that are accepted
    DELETE /_emulator/keys                   accept the one of the start alone
    GET    /_emulator/requests?since=N       {"requests": [..]}, entries whose number is above N (fields: Entry);
                                             with bucket=NAME only those of that bucket
    DELETE /_emulator/requests               forget the finished ones
    GET    /_emulator/dump?account=&bucket=&index=   {"vectors": [{"key", "data": [..], "metadata"}]}, all of them
    POST   /_emulator/reset                  everything gone: data, faults, limits, keys, journal

A request that cannot be understood is answered 400 {"error"}; the journal keeps the last JOURNAL_ENTRIES requests
with the last JOURNAL_KEYS keys at the most, and sequence numbers without a gap prove that none was dropped between two.
"""

import time
from collections import deque
from collections.abc import Callable

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker.local.emulator.errors import Refusal
from worker.local.emulator.faults import Adjustments, Faults, Limits, Rule
from worker.local.emulator.signature import AccessKeys, KeyPair
from worker.local.emulator.store import Store, metadata_of, numbers_of

JOURNAL_ENTRIES = 20_000
JOURNAL_KEYS = 2_000_000


class Keys(msgspec.Struct, forbid_unknown_fields=True):
    """Access keys, by id and secret."""

    keys: list[KeyPair]


class Entry(msgspec.Struct, kw_only=True):
    """One request to the service.

    started, ended: time.monotonic() seconds of this machine, at the arrival of the headers and before the answer is
    sent; `ended` None: still under way. at: seconds since the epoch. status: None when there was no answer. applied:
    it changed what is stored (with a fault that applies half, half of it). change: the number of a PutVectors or
    DeleteVectors among all changes, in the order in which they were made; changed_keys: how many of the keys, from the
    first on; firsts: the first number of each vector that was put, so that a test can give versions numbers.
    """

    sequence: int
    started: float
    at: float
    operation: str | None = None
    account: str | None = None
    bucket: str | None = None
    index: str | None = None
    keys: list[str] = []
    body_bytes: int = 0
    status: int | None = None
    code: str | None = None
    request_id: str = ""
    applied: bool = False
    change: int | None = None
    changed_keys: int = 0
    firsts: list[float] = []
    ended: float | None = None


class Journal:
    """The last requests, in the order of their arrival. Used on one thread."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._sequence = 0
        self._keys = 0

    def open(self) -> Entry:
        """Begin the entry of a request that arrives now."""
        self._sequence += 1
        entry = Entry(sequence=self._sequence, started=time.monotonic(), at=time.time())
        self._entries.append(entry)
        if len(self._entries) > JOURNAL_ENTRIES:
            self._drop_oldest()
        return entry

    def name(self, entry: Entry, index: str | None, keys: list[str]) -> None:
        """Note which index and keys a request concerns."""
        entry.index, entry.keys = index, keys
        self._keys += len(keys)
        while self._keys > JOURNAL_KEYS and self._entries:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._keys -= len(self._entries.popleft().keys)

    def since(self, sequence: int, bucket: str | None = None) -> list[Entry]:
        """The entries with a higher number, of one bucket if given."""
        return [entry for entry in self._entries if entry.sequence > sequence and bucket in {None, entry.bucket}]

    def clear(self) -> None:
        """Forget the finished ones."""
        self._entries = deque(entry for entry in self._entries if entry.ended is None)
        self._keys = sum(len(entry.keys) for entry in self._entries)


class Control:
    """The endpoints of the control path."""

    def __init__(
        self, store: Store, faults: Faults, adjustments: Adjustments, journal: Journal, keys: AccessKeys
    ) -> None:
        self._store = store
        self._faults = faults
        self._adjustments = adjustments
        self._journal = journal
        self._keys = keys

    def routes(self) -> list[Route]:
        """Routes below `/_emulator`."""
        table: list[tuple[str, str, Callable[[Request, bytes], object]]] = [
            ("GET", "/health", lambda _request, _body: {"status": "ok"}),
            ("POST", "/faults", self._add_fault),
            ("GET", "/faults", lambda _request, _body: {"faults": self._faults.listed()}),
            ("DELETE", "/faults", self._clear_faults),
            ("POST", "/limits", self._adjust),
            ("GET", "/limits", lambda _request, _body: {"limits": self._adjustments.listed()}),
            ("DELETE", "/limits", lambda _request, _body: self._adjustments.clear()),
            ("PUT", "/keys", self._accept_keys),
            ("GET", "/keys", lambda _request, _body: {"ids": self._keys.ids}),
            ("DELETE", "/keys", lambda _request, _body: self._keys.reset()),
            ("GET", "/requests", self._requests),
            ("DELETE", "/requests", lambda _request, _body: self._journal.clear()),
            ("GET", "/dump", self._dump),
            ("POST", "/reset", self._reset),
        ]
        return [Route(path, _endpoint(handler), methods=[method]) for method, path, handler in table]

    def _add_fault(self, _request: Request, body: bytes) -> object:
        return {"id": self._faults.add(msgspec.json.decode(body, type=Rule))}

    def _clear_faults(self, request: Request, _body: bytes) -> object:
        number = request.query_params.get("id")
        self._faults.clear(request.query_params.get("bucket"), None if number is None else int(number))
        return None

    def _adjust(self, _request: Request, body: bytes) -> object:
        self._adjustments.adjust(msgspec.json.decode(body, type=Limits))
        return None

    def _accept_keys(self, _request: Request, body: bytes) -> object:
        self._keys.accept(msgspec.json.decode(body, type=Keys).keys)
        return None

    def _requests(self, request: Request, _body: bytes) -> object:
        since, bucket = int(request.query_params.get("since", "0")), request.query_params.get("bucket")
        return {"requests": self._journal.since(since, bucket)}

    def _dump(self, request: Request, _body: bytes) -> object:
        account, bucket, index = (request.query_params.get(name, "") for name in ("account", "bucket", "index"))
        rows = self._store.dump(account, bucket, index)
        return {
            "vectors": [
                {"key": key, "data": numbers_of(row), "metadata": None if row.metadata is None else metadata_of(row)}
                for key, row in rows.items()
            ]
        }

    def _reset(self, _request: Request, _body: bytes) -> object:
        self._store.clear()
        self._faults.clear()
        self._adjustments.clear()
        self._keys.reset()
        self._journal.clear()
        return None


def _endpoint(handler: Callable[[Request, bytes], object]) -> Callable[[Request], object]:
    async def endpoint(request: Request) -> Response:
        try:
            answer = handler(request, await request.body())
        except Refusal as refusal:
            return _json({"error": refusal.message}, refusal.status)
        except ValueError as error:
            return _json({"error": str(error)}, 400)
        return _json({} if answer is None else answer, 200)

    return endpoint


def _json(value: object, status: int) -> Response:
    # orjson writes a numpy array at once, and msgspec the structs that orjson hands to it.
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=msgspec.to_builtins)
    return Response(content, status, media_type="application/json")
