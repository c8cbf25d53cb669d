"""Texts by key in a SQLite file that outlives the process; threads and processes may share it."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from posttrain.errors import JobError

BUSY_S = 60.0


class DiskCache:
    """A connection lives for one call, so none is shared between threads or inherited by a forked process.

    Raises:
        JobError: there can be no such file, or it is not a SQLite database.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._connected() as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("CREATE TABLE IF NOT EXISTS cache (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise JobError(
                f"the cache {str(path)!r} cannot be used: {error}; name another file or delete it"
            ) from error

    def get(self, keys: Iterable[str]) -> dict[str, str]:
        """The values of those keys that are known."""
        with self._connected() as connection:
            rows = [connection.execute("SELECT key, value FROM cache WHERE key = ?", (key,)).fetchone() for key in keys]
        return dict(row for row in rows if row is not None)

    def put(self, values: Mapping[str, str]) -> None:
        """Keep ``values``; a key that is known keeps its value."""
        with self._connected() as connection:
            connection.executemany("INSERT OR IGNORE INTO cache VALUES (?, ?)", list(values.items()))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=BUSY_S)) as connection, connection:
            yield connection
