"""ObjectTree: objects as files below one directory. Synchronous. Raises the ``OSError`` that it saw,
and ``EOFError`` for an object that ends before the range asked for.

An object is written to a temporary file in ``.tmp`` first. That folder is on the same file system, and its name is no
key. Then the file is linked or renamed to its final name.

Invariants: a file under its final name is whole, and was synced before it got the name. :meth:`ObjectTree.create` never
gives a name that is taken to other bytes. Files have mode 0600, directories 0700. Every step down is ``openat`` with
``O_NOFOLLOW`` from a descriptor of the container, so neither a key nor a planted symbolic link leads out of it.
Several threads may call the methods at once, but ``close`` only when no other call is running.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jetdr_core.store.keys import is_key

__all__ = ["LINKING", "FileSystemAway", "ObjectTree", "PathMoved", "Row", "TreeIdentity", "tried"]

TEMPORARY_AREA = ".tmp"
LINKING = "linking the object to its key"
_TOKEN_BYTES = 12
_TEMPORARY = re.compile(rf"[0-9]+-[0-9a-f]{{{2 * _TOKEN_BYTES}}}")
"""Names of objects in the making. Whatever else is in the area is not ours."""

STALE_S = 24 * 3600.0
"""A temporary file that is so much older than a new one has no living writer."""

_BUFFERS_MAX = min(os.sysconf("SC_IOV_MAX"), 1024)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a planted pipe must not block us
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Row(NamedTuple):
    """One entry of a directory. The name of a directory ends with ``/``, and so sorts as keys sort."""

    name: str
    size_bytes: int


class PathMoved(Exception):
    """The container's path no longer leads to the directory that was opened."""


class FileSystemAway(Exception):
    """The container's path leads to another file system, or to nothing where another one is: it is not mounted."""


class TreeIdentity(NamedTuple):
    """What tells a directory from every other one while it exists."""

    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> TreeIdentity:
        return cls(status.st_dev, status.st_ino)


class ObjectTree:
    """The container at ``path``, which must exist. With ``identity`` it must be that directory.

    Every method raises :class:`PathMoved` once the path leads elsewhere, or :class:`FileSystemAway` if that is on
    another file system.
    """

    def __init__(self, path: Path, *, identity: TreeIdentity | None = None) -> None:
        self._path = path
        self._root = _open_root(path, identity)
        self.identity = TreeIdentity.of(os.fstat(self._root))
        if identity not in {None, self.identity}:
            os.close(self._root)
            raise _elsewhere(path, identity)
        self._durable: set[str] = set()  # directories whose name in their parent is known to be durable
        self._swept = threading.Event()

    def close(self) -> None:
        os.close(self._root)

    def create(self, key: str, views: Sequence[memoryview]) -> None:
        """Create the object durably, or raise ``FileExistsError``. The object that exists is then durable."""
        directory, name = _split(key)
        with self._directory(directory, make=True) as target:
            try:
                _refuse_existing(target, name)
                with self._temporary(views) as (area, temporary), tried(LINKING):
                    os.link(temporary, name, src_dir_fd=area, dst_dir_fd=target, follow_symlinks=False)
            except FileExistsError:
                os.fsync(target)  # its writer may be between naming and syncing, or have died there
                raise
            os.fsync(target)

    def replace(self, key: str, views: Sequence[memoryview]) -> None:
        directory, name = _split(key)
        with self._directory(directory, make=True) as target:
            with self._temporary(views) as (area, temporary), tried("renaming the object to its key"):
                os.rename(temporary, name, src_dir_fd=area, dst_dir_fd=target)
            os.fsync(target)

    def read(self, key: str) -> bytes:
        with self._object(key) as (fd, size):
            return _read(fd, 0, size)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return the bytes of the range. ``EOFError`` if the object ends earlier."""
        with self._object(key) as (fd, size):
            if offset + length > size:
                raise EOFError(key)
            return _read(fd, offset, length)

    def scan(self, directory: str, name_prefix: str) -> list[Row]:
        """Return what in ``directory`` a key can name, as keys sort. A missing directory has nothing."""
        try:
            with self._directory(directory) as fd, os.scandir(fd) as entries:
                rows = [_row(entry) for entry in entries if entry.name.startswith(name_prefix) and is_key(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            if not directory:
                raise
            return []
        return sorted(row for row in rows if row is not None)

    def remove(self, key: str) -> None:
        directory, name = _split(key)
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError),
            self._directory(directory) as target,
        ):
            os.unlink(name, dir_fd=target)

    def _check_path(self) -> None:
        """Raise if the directory was removed, renamed or replaced, was unmounted or is mounted over.

        Readers go by the path, so they would never see what is put through the descriptor.
        """
        try:
            if TreeIdentity.of(os.stat(self._path)) == self.identity:
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise _elsewhere(self._path, self.identity)

    @contextlib.contextmanager
    def _directory(self, path: str, *, make: bool = False) -> Iterator[int]:
        """Give a descriptor of the directory ``path`` of the container. An empty path is the container itself."""
        self._check_path()
        fd = os.dup(self._root)
        try:
            parts = path.split("/") if path else []
            for depth, part in enumerate(parts, 1):
                if make:
                    self._make_durable(fd, part, "/".join(parts[:depth]))
                below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _make_durable(self, parent: int, name: str, path: str) -> None:
        try:
            with tried(f"making the directory {path!r}"):
                os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if path in self._durable:
                return
        os.fsync(parent)
        self._durable.add(path)

    @contextlib.contextmanager
    def _temporary(self, views: Sequence[memoryview]) -> Iterator[tuple[int, str]]:
        """Give a synced file with these bytes, as (descriptor of its directory, name). The name is gone afterwards."""
        with self._directory(TEMPORARY_AREA, make=True) as area:
            name = f"{os.getpid()}-{secrets.token_hex(_TOKEN_BYTES)}"
            try:
                with tried("making a file"):
                    made = os.open(name, _CREATE, 0o600, dir_fd=area)
                with _opened(made) as fd, tried(f"writing {sum(view.nbytes for view in views)} bytes"):
                    self._sweep_once(area, os.fstat(fd).st_mtime)
                    _write(fd, views)
                    os.fsync(fd)
                yield area, name
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=area)

    def _sweep_once(self, area: int, now: float) -> None:
        """Remove what dead writers left. ``now`` is the file system's own time, so hosts' clocks do not matter."""
        if self._swept.is_set():
            return
        self._swept.set()
        for name in filter(_TEMPORARY.fullmatch, os.listdir(area)):
            with contextlib.suppress(OSError):
                if now - os.stat(name, dir_fd=area, follow_symlinks=False).st_mtime > STALE_S:
                    os.unlink(name, dir_fd=area)

    @contextlib.contextmanager
    def _object(self, key: str) -> Iterator[tuple[int, int]]:
        """Give (descriptor, size) of the regular file that is the object."""
        directory, name = _split(key)
        with self._directory(directory) as parent, _opened(os.open(name, _READ, dir_fd=parent)) as fd:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a regular file", key)
            yield fd, status.st_size


def _open_root(path: Path, identity: TreeIdentity | None) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        if identity is not None:
            raise _elsewhere(path, identity) from None
        raise


def _elsewhere(path: Path, identity: TreeIdentity | None) -> PathMoved | FileSystemAway:
    """Say why ``path`` does not lead to the directory ``identity``: its file system is another one, or the same."""
    for place in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            is_same = identity is not None and os.stat(place).st_dev == identity.device
            return PathMoved() if is_same else FileSystemAway()
    return PathMoved()


@contextlib.contextmanager
def tried(what: str) -> Iterator[None]:
    """Add what was tried to an ``OSError`` of the body, as a note."""
    try:
        yield
    except OSError as error:
        error.add_note(what)
        raise


@contextlib.contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _split(key: str) -> tuple[str, str]:
    directory, _, name = key.rpartition("/")
    return directory, name


def _refuse_existing(directory: int, name: str) -> None:
    """Skip the write if the name is taken. ``link`` still decides."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _row(entry: os.DirEntry[str]) -> Row | None:
    if entry.is_dir(follow_symlinks=False):
        return Row(f"{entry.name}/", 0)
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return Row(entry.name, status.st_size) if stat.S_ISREG(status.st_mode) else None


def _write(fd: int, views: Sequence[memoryview]) -> None:
    """Write all bytes, with as many buffers per call as the system takes."""
    first, done = 0, 0  # the buffer to go on with, and how much of it is written
    while first < len(views):
        with views[first][done:] as rest:
            done += os.writev(fd, [rest, *views[first + 1 : first + _BUFFERS_MAX]])
        while first < len(views) and done >= views[first].nbytes:
            done -= views[first].nbytes
            first += 1


def _read(fd: int, offset: int, length: int) -> bytes:
    """Return ``length`` bytes, however few the system gives at a time. ``EOFError`` if the file was cut meanwhile."""
    data = os.pread(fd, length, offset)
    if len(data) == length:
        return data
    if not data:
        raise EOFError
    return data + _read(fd, offset + len(data), length - len(data))
