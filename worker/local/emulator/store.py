"""Buckets, indexes and vectors in memory, exact search over them, and their copy on disk if there is one.

Every public method may be called from any thread; one lock orders them, so each is atomic.
"""

import base64
import bisect
import heapq
import itertools
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from worker.local.emulator.disk import Disk
from worker.local.emulator.errors import Refusal, invalid
from worker.local.emulator.filters import Predicate
from worker.local.emulator.rules import MAX_INDEXES_OF_A_BUCKET, IndexConfig, Row

# Rows whose distances are computed at once: 4096 x 4096 float64 numbers are 128 MiB at the most.
_SEARCH_ROWS = 4096


@dataclass
class _Index:
    config: IndexConfig
    disk_id: int = 0
    applied: dict[str, Row] = field(default_factory=dict)
    readable: dict[str, Row] = field(default_factory=dict)
    # (when it becomes readable in time.monotonic() seconds, key, row or None for deleted), oldest first
    pending: deque[tuple[float, str, Row | None]] = field(default_factory=deque)
    sorted_keys: list[str] | None = None

    def change(self, changes: Iterable[tuple[str, Row | None]], readable_at: float) -> None:
        # A change must not become readable before an earlier one of the same key.
        due = max(readable_at, self.pending[-1][0]) if self.pending else readable_at
        for key, row in changes:
            _assign(self.applied, key, row)
            self.pending.append((due, key, row))
        self.view()

    def view(self) -> dict[str, Row]:
        """The rows that are readable by now."""
        now = time.monotonic()
        while self.pending and self.pending[0][0] <= now:
            _, key, row = self.pending.popleft()
            if (row is None) == (key in self.readable):
                self.sorted_keys = None
            _assign(self.readable, key, row)
        return self.readable

    def keys_in_order(self) -> list[str]:
        rows = self.view()
        if self.sorted_keys is None:
            self.sorted_keys = sorted(rows)
        return self.sorted_keys


def _assign(rows: dict[str, Row], key: str, row: Row | None) -> None:
    if row is None:
        rows.pop(key, None)
    else:
        rows[key] = row


@dataclass
class Bucket:
    """A bucket; `created` in seconds since the epoch."""

    account: str
    name: str
    region: str
    created: float
    indexes: dict[str, _Index] = field(default_factory=dict)


class Store:
    """Everything that the emulator keeps. `disk` None: in memory alone."""

    def __init__(self, disk: Disk | None = None) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._changes = 0
        self._buckets: dict[tuple[str, str], Bucket] = {}
        if disk is not None:
            self._load(disk)

    def _load(self, disk: Disk) -> None:
        for account, bucket, region, created in disk.buckets():
            self._buckets[account, bucket] = Bucket(account, bucket, region, created)
        for number, account, bucket, config in disk.indexes():
            index = _Index(config, number)
            self._buckets[account, bucket].indexes[config.name] = index
            index.applied.update(disk.rows(number))
            index.readable.update(index.applied)

    def close(self) -> None:
        """Close the disk."""
        with self._lock:
            if self._disk is not None:
                self._disk.close()

    def clear(self) -> None:
        """Forget everything, on disk too."""
        with self._lock:
            self._buckets.clear()
            if self._disk is not None:
                self._disk.clear()

    # Buckets

    def put_bucket(self, account: str, bucket: str, region: str, now: float) -> None:
        """Create a bucket; 409 when it is there."""
        with self._lock:
            if (account, bucket) in self._buckets:
                raise Refusal(409, "BucketAlreadyExists", "The requested bucket name is not available.")
            self._buckets[account, bucket] = Bucket(account, bucket, region, now)
            if self._disk is not None:
                self._disk.put_bucket(account, bucket, region, now)

    def bucket(self, account: str, bucket: str) -> Bucket:
        """A bucket; 404 when there is none."""
        with self._lock:
            return self._bucket(account, bucket)

    def buckets(self) -> list[Bucket]:
        """All buckets, by name."""
        with self._lock:
            return [self._buckets[key] for key in sorted(self._buckets, key=lambda key: key[::-1])]

    def delete_bucket(self, account: str, bucket: str) -> None:
        """Delete an empty bucket; 409 when it has indexes."""
        with self._lock:
            if self._bucket(account, bucket).indexes:
                raise Refusal(409, "BucketNotEmpty", "The bucket has vector indexes. Delete them first.")
            del self._buckets[account, bucket]
            if self._disk is not None:
                self._disk.delete_bucket(account, bucket)

    def _bucket(self, account: str, bucket: str) -> Bucket:
        found = self._buckets.get((account, bucket))
        if found is None:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.")
        return found

    # Indexes

    def put_index(self, account: str, bucket: str, config: IndexConfig) -> None:
        """Create an index; 409 when it is there."""
        with self._lock:
            indexes = self._bucket(account, bucket).indexes
            if config.name in indexes:
                raise Refusal(409, "VectorBucketIndexAlreadyExist", "The vector index already exists.")
            if len(indexes) >= MAX_INDEXES_OF_A_BUCKET:
                raise invalid(f"The bucket has {MAX_INDEXES_OF_A_BUCKET} vector indexes, as many as it may have.")
            number = self._disk.put_index(account, bucket, config) if self._disk is not None else 0
            indexes[config.name] = _Index(config, number)

    def index(self, account: str, bucket: str, name: str) -> IndexConfig:
        """An index's configuration; 404 when there is none."""
        with self._lock:
            return self._index(account, bucket, name).config

    def indexes(self, account: str, bucket: str) -> list[IndexConfig]:
        """The indexes of a bucket, by name."""
        with self._lock:
            indexes = self._bucket(account, bucket).indexes
            return [indexes[name].config for name in sorted(indexes)]

    def delete_index(self, account: str, bucket: str, name: str) -> None:
        """Delete an index with its vectors."""
        with self._lock:
            index = self._index(account, bucket, name)
            del self._bucket(account, bucket).indexes[name]
            if self._disk is not None:
                self._disk.delete_index(index.disk_id)

    def _index(self, account: str, bucket: str, name: str) -> _Index:
        found = self._bucket(account, bucket).indexes.get(name)
        if found is None:
            raise Refusal(404, "NoSuchVectorIndex", "The specified vector index does not exist.")
        return found

    # Vectors

    def put(self, account: str, bucket: str, name: str, rows: Mapping[str, Row], visibility_seconds: float) -> int:
        """Insert or replace vectors; they are readable after `visibility_seconds`. Returns the number of this change."""
        with self._lock:
            index = self._index(account, bucket, name)
            if self._disk is not None:
                self._disk.put_rows(index.disk_id, rows)
            index.change(rows.items(), time.monotonic() + visibility_seconds)
            self._changes += 1
            return self._changes

    def delete(self, account: str, bucket: str, name: str, keys: Iterable[str], visibility_seconds: float) -> int:
        """Delete vectors; an absent key is no error. Returns the number of this change."""
        with self._lock:
            index = self._index(account, bucket, name)
            keys = list(keys)
            if self._disk is not None:
                self._disk.delete_rows(index.disk_id, keys)
            index.change(((key, None) for key in keys), time.monotonic() + visibility_seconds)
            self._changes += 1
            return self._changes

    def get(self, account: str, bucket: str, name: str, keys: Iterable[str]) -> dict[str, Row]:
        """The readable ones of `keys`."""
        with self._lock:
            rows = self._index(account, bucket, name).view()
            return {key: rows[key] for key in keys if key in rows}

    def dump(self, account: str, bucket: str, name: str) -> dict[str, Row]:
        """All vectors as they are applied, readable yet or not."""
        with self._lock:
            return dict(self._index(account, bucket, name).applied)

    def page(
        self, account: str, bucket: str, name: str, token: str | None, limit: int, segment: tuple[int, int]
    ) -> tuple[dict[str, Row], str | None]:
        """Readable vectors by key, `limit` of them after `token`; the second value is the token of the next page."""
        segments, wanted = segment
        with self._lock:
            index = self._index(account, bucket, name)
            after = read_token(token)
            keys = index.keys_in_order()
            rest = itertools.islice(keys, 0 if after is None else bisect.bisect_right(keys, after), None)
            # One more than fits the page shows whether there is a next page.
            found = list(itertools.islice((key for key in rest if _in(key, segments, wanted)), limit + 1))
            page = found[:limit]
            rows = {key: index.readable[key] for key in page}
            return rows, make_token(page[-1]) if len(found) > limit else None

    def search(
        self, account: str, bucket: str, name: str, vector: NDArray[np.float32], top_k: int, where: Predicate | None
    ) -> list[tuple[str, float, Row]]:
        """The `top_k` nearest readable vectors that fulfil `where`, as (key, distance, row), nearest first.

        Cosine distance is 1 - cosine similarity; euclidean distance is the root of the summed squares.
        """
        with self._lock:
            index = self._index(account, bucket, name)
            found = [(key, row) for key, row in index.view().items() if where is None or where(metadata_of(row))]
            metric = index.config.distance_metric
        nearest: list[tuple[float, str, Row]] = []
        for start in range(0, len(found), _SEARCH_ROWS):
            part = found[start : start + _SEARCH_ROWS]
            distances = _distances([row.data for _, row in part], vector, metric)
            nearest += [(distance, key, row) for distance, (key, row) in zip(distances.tolist(), part, strict=True)]
            nearest = heapq.nsmallest(top_k, nearest, key=lambda item: item[:2])
        return [(key, distance, row) for distance, key, row in nearest]


def numbers_of(row: Row) -> NDArray[np.float32]:
    """The vector of a row, shape (dimension,)."""
    return np.frombuffer(row.data, dtype="<f4")


def metadata_of(row: Row) -> dict[str, str | list[str]]:
    """The metadata of a row; empty when it has none."""
    metadata: dict[str, str | list[str]] = orjson.loads(row.metadata) if row.metadata is not None else {}
    return metadata


def make_token(last: str) -> str:
    """The opaque token of the page after `last`."""
    return base64.urlsafe_b64encode(last.encode()).decode()


def read_token(token: str | None) -> str | None:
    """What `make_token` was given; None for None."""
    try:
        return None if token is None else base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except ValueError:
        raise invalid("nextToken: this is no token of an earlier page.") from None


def _in(key: str, segments: int, wanted: int) -> bool:
    return segments == 1 or zlib.crc32(key.encode()) % segments == wanted


def _distances(rows: list[bytes], vector: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    query = vector.astype(np.float64)
    matrix = np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), len(query)).astype(np.float64)
    distances: NDArray[np.float64]
    if metric == "cosine":
        distances = 1.0 - (matrix @ query) / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(query))
    else:
        distances = np.linalg.norm(matrix - query, axis=1)
    return distances
