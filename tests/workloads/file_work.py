"""FileWork: what an application does with a file system, and what must be there after each step, whatever happens.

A step commits a row to each of two databases, and writes, renames and deletes files. It ends when all of it is durable.
The databases are SQLite's, with synchronous=FULL. One has a write-ahead log, the other truncates its journal. If SQLite
deletes its journal, a commit is durable only once the folder has been synced too, so no database here does that.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sqlite3
import subprocess
import tarfile
from pathlib import Path

DATABASES = {"wal.db": "WAL", "truncate.db": "TRUNCATE"}
KEPT_FILES = 10
GIT = ("git", "-c", "user.name=guest", "-c", "user.email=guest@example.org", "-c", "init.defaultBranch=main")


class FileWork:
    """Works below ``root``. Call :meth:`close` before the file system is unmounted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps = 0
        (root / "files").mkdir()
        self._databases = [_database(root / name, mode) for name, mode in DATABASES.items()]

    def step(self) -> int:
        """Do one more step. Return its number, from 1, once it is durable."""
        number = self.steps + 1
        for database in self._databases:
            with database:
                database.execute("INSERT INTO done VALUES (?, ?)", (number, content(number)))
        self._write_renamed(number)
        if number > KEPT_FILES:
            (self.root / "files" / str(number - KEPT_FILES)).unlink()
        _sync(self.root / "files")
        self._write_sparse(number)
        self.steps = number
        return number

    def unpack_and_commit(self) -> None:
        """Write many small files: tar unpacks an archive of them, and git commits them."""
        tree = self.root / "tree"
        unpacked = tree / str(self.steps)
        unpacked.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", unpacked], input=_archive(), check=True, capture_output=True, timeout=60)
        for arguments in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", f"step {self.steps}")):
            subprocess.run([*GIT, "-C", tree, *arguments], check=True, capture_output=True, timeout=60)

    def close(self) -> None:
        for database in self._databases:
            database.close()

    def _write_renamed(self, number: int) -> None:
        part = self.root / "files" / "part"
        part.write_bytes(content(number))
        _sync(part)
        part.rename(self.root / "files" / str(number))

    def _write_sparse(self, number: int) -> None:
        """Write into the large hole at the end of a sparse file, and make the file larger."""
        with (self.root / "sparse").open("r+b" if number > 1 else "w+b") as file:
            file.truncate(number << 20)
            file.seek((number << 20) - (number << 9))
            file.write(content(number)[:512])
            file.flush()
            os.fsync(file.fileno())


def content(number: int) -> bytes:
    """Return the content of the file and of the row of that step."""
    return hashlib.sha256(str(number).encode()).digest() * (number * 37 % 400 + 16)


def check(root: Path, steps: int) -> None:
    """Check, after a power loss, that all that ``steps`` steps made durable is there and the databases are whole."""
    for name in DATABASES:
        with contextlib.closing(sqlite3.connect(root / name)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = database.execute("SELECT number, content FROM done ORDER BY number").fetchall()
        assert len(rows) >= steps, f"{name} has {len(rows)} rows, {steps} were committed"
        assert rows == [(number, content(number)) for number in range(1, len(rows) + 1)]
    present = {int(file.name): file for file in (root / "files").iterdir() if file.name != "part"}
    assert max(present, default=0) >= steps
    assert min(present, default=1) > steps - KEPT_FILES, "a deleted file is back"
    for number, file in present.items():
        assert file.read_bytes() == content(number)
    with (root / "sparse").open("rb") as sparse:
        for number in range(1, steps + 1):
            sparse.seek((number << 20) - (number << 9))
            assert sparse.read(512) == content(number)[:512]


def manifest(root: Path) -> dict[str, str]:
    """Return every file below ``root`` with its kind and the checksum of its content."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            what = f"link to {path.readlink()}"
        elif path.is_dir():
            what = "folder"
        else:
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = f"{path.lstat().st_mode:o} {what}"
    return found


def _database(path: Path, journal_mode: str) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    assert database.execute(f"PRAGMA journal_mode={journal_mode}").fetchone() == (journal_mode.lower(),)
    database.execute("PRAGMA synchronous=FULL")
    with database:
        database.execute("CREATE TABLE done (number INTEGER PRIMARY KEY, content BLOB)")
    _sync(path.parent)
    return database


def _archive() -> bytes:
    """Return a tar archive of the standard library's ``email`` package, a tree of small files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for file in sorted((Path(os.__file__).parent / "email").rglob("*.py")):
            archive.add(file, file.name)
    return target.getvalue()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
