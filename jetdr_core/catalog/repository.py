"""MetadataRepository: keeps footers on a local disk, so that a second look at a domain need not fetch them again.

Invariants: the repository is a cache and nothing else, so that deleting or damaging its file loses nothing.

- The reader uses a row only if its bytes have the checksum under which it is kept.
- A repository that SQLite cannot read, or of an earlier layout, is deleted and created anew. A file that is locked,
  full or read-only is a miss.
- A file that is no repository, such as a disk named by mistake, is neither deleted nor changed. The catalog then works
  without a repository. The same holds for a link or a pipe, also under the names that SQLite derives from the file's,
  because SQLite would follow it or wait.
- No more of a row is loaded than the reader expects.
- No error of the repository reaches a recovery.

The file has mode 0600. One thread of the repository's own uses the one connection. Any event loop may await it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import UUID

log = logging.getLogger(__name__)
T = TypeVar("T")

BYTES_MAX_DEFAULT = 1 << 30
_LAYOUT = 1
_APPLICATION = 0x4A445243
"""What tells a repository from every other SQLite file. It is in the file's header before anything else is."""

_HEADER_BYTES = 100
_SQLITE = b"SQLite format 3\0"
_SUFFIXES = ("", "-wal", "-shm", "-journal")
_TABLE = """footer (
    domain BLOB NOT NULL, checksum BLOB NOT NULL, bytes INTEGER NOT NULL, footer BLOB NOT NULL,
    UNIQUE (domain, checksum)
)"""
_CREATE = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA user_version = {_LAYOUT};
CREATE TABLE IF NOT EXISTS {_TABLE};
"""


class MetadataRepository:
    """Footers by (domain, object checksum), at most about ``bytes_max`` of them. The oldest are removed first."""

    def __init__(self, path: Path, *, bytes_max: int = BYTES_MAX_DEFAULT) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._bytes = 0
        self._connection: sqlite3.Connection | None = None
        self._is_refused = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jetdr-repository")

    async def get(self, domain_uuid: UUID, wanted: Sequence[tuple[bytes, int]]) -> list[bytes | None]:
        """Return what :meth:`put` was given for each (checksum, length), or None.

        The caller verifies it, and calls :meth:`drop` if it is wrong.
        """
        found = await self._run(
            lambda connection: [self._get(connection, domain_uuid.bytes, *footer) for footer in wanted]
        )
        return [None] * len(wanted) if found is None else found

    async def put(self, domain_uuid: UUID, footers: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep the footers, given as (checksum, footer)."""
        await self._run(lambda connection: self._put(connection, domain_uuid.bytes, footers))

    async def drop(self, domain_uuid: UUID, checksum: bytes) -> None:
        await self._run(lambda connection: self._drop(connection, domain_uuid.bytes, checksum))

    async def close(self) -> None:
        """Release the file. Idempotent."""
        with contextlib.suppress(RuntimeError):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, step: Callable[[sqlite3.Connection], T | None]) -> T | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._attempt, step)

    def _attempt(self, step: Callable[[sqlite3.Connection], T | None]) -> T | None:
        """Do ``step``. None if the file is not usable at present."""
        if self._is_refused:
            return None
        try:
            return step(self._connected())
        except _NotOurs as error:
            self._is_refused = True
            log.warning("%s, and was left as it is; name another file, or use none (--no-cache)", error)
        except (sqlite3.OperationalError, OSError) as error:
            log.warning("metadata repository %s is not usable at present: %s", self.path, error)
            self._close()
        except sqlite3.DatabaseError as error:
            log.warning("metadata repository %s is damaged and created anew: %s", self.path, error)
            self._begin_anew()
        return None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._make_file()
            connection = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
            self._connection = connection
            if connection.execute("PRAGMA user_version").fetchone()[0] not in (0, _LAYOUT):
                raise sqlite3.DatabaseError("another layout")
            connection.executescript(_CREATE)
            self._bytes = _bytes_kept(connection)
        return self._connection

    def _make_file(self) -> None:
        """Create a missing file. ``_NotOurs`` for one that is no repository, which stays as it is."""
        for path in (Path(f"{self.path}{suffix}") for suffix in _SUFFIXES):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise _NotOurs(f"{path} is no regular file")
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            header = os.read(fd, _HEADER_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b"?"
            if header and not _is_repository(header):
                if _is_of_first_layout(self.path, header):
                    raise sqlite3.DatabaseError("an earlier layout")
                raise _NotOurs(f"{self.path} is no metadata repository")
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _begin_anew(self) -> None:
        self._close()
        for suffix in _SUFFIXES:
            with contextlib.suppress(OSError):
                Path(f"{self.path}{suffix}").unlink()

    def _get(self, connection: sqlite3.Connection, domain: bytes, checksum: bytes, footer_bytes: int) -> bytes | None:
        row = connection.execute(
            "SELECT CASE length(footer) WHEN ? THEN footer END FROM footer WHERE domain = ? AND checksum = ?",
            (footer_bytes, domain, checksum),
        ).fetchone()
        if row is not None and not isinstance(row[0], bytes):
            self._drop(connection, domain, checksum)
        return row[0] if row and isinstance(row[0], bytes) else None

    def _put(self, connection: sqlite3.Connection, domain: bytes, footers: Sequence[tuple[bytes, bytes]]) -> None:
        rows = [(domain, checksum, len(footer), footer) for checksum, footer in footers]
        connection.execute("BEGIN")
        with connection:
            connection.executemany("INSERT OR IGNORE INTO footer VALUES (?, ?, ?, ?)", rows)
        self._bytes += sum(len(footer) for _, footer in footers)
        while self._bytes > self._bytes_max:
            self._evict(connection)

    def _evict(self, connection: sqlite3.Connection) -> None:
        """Remove the oldest quarter."""
        connection.execute(
            "DELETE FROM footer WHERE rowid IN (SELECT rowid FROM footer ORDER BY rowid LIMIT "
            "(SELECT count(*) / 4 + 1 FROM footer))"
        )
        self._bytes = _bytes_kept(connection)

    def _drop(self, connection: sqlite3.Connection, domain: bytes, checksum: bytes) -> None:
        connection.execute("DELETE FROM footer WHERE domain = ? AND checksum = ?", (domain, checksum))


class _NotOurs(Exception):
    """The file is no repository."""


def _is_repository(header: bytes) -> bool:
    return header.startswith(_SQLITE) and header[68:72] == _APPLICATION.to_bytes(4, "big")


def _is_of_first_layout(path: Path, header: bytes) -> bool:
    """Whether an earlier engine made the file, which bears no mark: its one table tells. Nothing is changed."""
    if not header.startswith(_SQLITE) or header[68:72] != bytes(4):
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as connection:
            made = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    except sqlite3.Error:
        return False
    return made == [(f"CREATE TABLE {_TABLE}",)]


def _bytes_kept(connection: sqlite3.Connection) -> int:
    kept: int = connection.execute("SELECT coalesce(sum(bytes), 0) FROM footer").fetchone()[0]
    return kept
