"""What is kept over restarts: one SQLite database.

A write returns once its transaction is in the write-ahead log, which the operating system holds: it survives the death
of the process at any moment (kill -9), though not the loss of power.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from worker.local.emulator.rules import IndexConfig, Row

FILE_NAME = "oss-vectors.sqlite3"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (
  account TEXT, bucket TEXT, region TEXT, created REAL, PRIMARY KEY (account, bucket));
CREATE TABLE IF NOT EXISTS indexes (
  id INTEGER PRIMARY KEY, account TEXT, bucket TEXT, name TEXT, config BLOB, UNIQUE (account, bucket, name));
CREATE TABLE IF NOT EXISTS vectors (
  index_id INTEGER, key BLOB, data BLOB, metadata BLOB, PRIMARY KEY (index_id, key));
"""


class Disk:
    """The database of one emulator; its methods are called under the store's lock, from any thread."""

    def __init__(self, directory: Path) -> None:
        """Open or create the database; raise OSError or sqlite3.Error when that cannot be, as when another has it."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / FILE_NAME
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.5)
        try:
            # Two emulators on one directory would answer from different memories.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error:
            self._database.close()
            raise

    def close(self) -> None:
        """Fold the log into the database and let go of it."""
        self._database.close()

    def buckets(self) -> Iterator[tuple[str, str, str, float]]:
        """(account, bucket, region, created) of each."""
        yield from self._database.execute("SELECT account, bucket, region, created FROM buckets")

    def indexes(self) -> Iterator[tuple[int, str, str, IndexConfig]]:
        """(id, account, bucket, configuration) of each."""
        for number, account, bucket, config in self._database.execute(
            "SELECT id, account, bucket, config FROM indexes ORDER BY id"
        ):
            yield number, account, bucket, msgspec.json.decode(config, type=IndexConfig)

    def rows(self, index_id: int) -> Iterator[tuple[str, Row]]:
        """(key, row) of each vector of an index."""
        query = "SELECT key, data, metadata FROM vectors WHERE index_id = ?"
        for key, data, metadata in self._database.execute(query, (index_id,)):
            yield key.decode(), Row(data, metadata)

    def put_bucket(self, account: str, bucket: str, region: str, created: float) -> None:
        """Keep a bucket."""
        self._database.execute("INSERT INTO buckets VALUES (?, ?, ?, ?)", (account, bucket, region, created))

    def delete_bucket(self, account: str, bucket: str) -> None:
        """Forget a bucket, which has no indexes."""
        self._database.execute("DELETE FROM buckets WHERE account = ? AND bucket = ?", (account, bucket))

    def put_index(self, account: str, bucket: str, config: IndexConfig) -> int:
        """Keep an index and return its id."""
        cursor = self._database.execute(
            "INSERT INTO indexes (account, bucket, name, config) VALUES (?, ?, ?, ?)",
            (account, bucket, config.name, msgspec.json.encode(config)),
        )
        return cursor.lastrowid or 0

    def delete_index(self, index_id: int) -> None:
        """Forget an index with its vectors."""
        with self._transaction():
            self._database.execute("DELETE FROM vectors WHERE index_id = ?", (index_id,))
            self._database.execute("DELETE FROM indexes WHERE id = ?", (index_id,))

    def put_rows(self, index_id: int, rows: Mapping[str, Row]) -> None:
        """Insert or replace vectors, all or none."""
        values = ((index_id, key.encode(), row.data, row.metadata) for key, row in rows.items())
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", values)

    def delete_rows(self, index_id: int, keys: Iterable[str]) -> None:
        """Delete vectors, all or none."""
        with self._transaction():
            self._database.executemany(
                "DELETE FROM vectors WHERE index_id = ? AND key = ?", ((index_id, key.encode()) for key in keys)
            )

    def clear(self) -> None:
        """Forget everything."""
        with self._transaction():
            for table in ("vectors", "indexes", "buckets"):
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own tables

    def _transaction(self) -> sqlite3.Connection:
        """Commits at the end of a `with` block, or rolls back."""
        self._database.execute("BEGIN IMMEDIATE")
        return self._database
