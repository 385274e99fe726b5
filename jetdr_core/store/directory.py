"""DirectoryStore: a container in a directory of a local or network file system.

A slow disk must hold up neither the event loop nor the threads that compress. So each operation is one hop to a thread
of the store's own, where :class:`~jetdr_core.store.tree.ObjectTree` does all its steps.

Invariants: once a call has ended, even by cancellation, no thread touches its buffers. ``put_if_absent`` and
``replace`` are durable at return: file, directory and new parent directories are synced. ``delete`` is not, so a power
loss may bring the object back. Every ``OSError`` becomes a :class:`StoreError` here, and is classified as transient or
lasting.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from aiofiles.os import wrap
from typing_extensions import Buffer

from jetdr_core.aio import finish
from jetdr_core.durable import make_folders
from jetdr_core.errors import (
    InvalidRequest,
    ObjectExists,
    ObjectNotFound,
    StoreAccessDenied,
    StoreError,
    StoreLost,
)
from jetdr_core.store.keys import (
    byte_views,
    check_key,
    check_prefix,
    check_range,
    store_closed,
    too_short,
)
from jetdr_core.store.protocol import ObjectInfo, ObjectRange
from jetdr_core.store.ranges import check_ranges
from jetdr_core.store.tree import LINKING, ObjectTree, PathMoved, Row

__all__ = ["DirectoryStore"]

T = TypeVar("T")

THREADS_DEFAULT = 8

_TRANSIENT = {
    errno.ENOSPC: "free some space on the file system of the store",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EIO: "check the disk or the network that the store is on",
    errno.ESTALE: "check the network file system",
    errno.ETIMEDOUT: "check the network file system",
    errno.EAGAIN: "",
    errno.EBUSY: "",
    errno.EINTR: "",
    errno.ENOMEM: "free memory",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (fs.file-max)",
}
_LASTING = {
    errno.ENOENT: "check that the store's directory still exists",
    errno.ENOTDIR: "a part of the key is a file where a directory is needed; move it out of the store",
    errno.EISDIR: "the key is a directory in the store; move it out",
    errno.ELOOP: "symbolic links in a store are not followed; move it out",
    errno.EROFS: "the file system is mounted read-only; remount it or choose another store",
    errno.EXDEV: "nothing may be mounted inside the store's directory",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EOPNOTSUPP: "the file system has no hard links; keep the store on ext4, XFS, Btrfs, ZFS or NFS",
}
_DENIED = {errno.EACCES, errno.EPERM}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}
"""What file systems without hard links answer to link(2): exFAT and FAT say EPERM."""


class DirectoryStore:
    """The container at the absolute ``path``. Without ``create`` it must exist."""

    def __init__(self, path: Path, *, create: bool = False, threads: int = THREADS_DEFAULT) -> None:
        self._path = path
        self._tree = _open_tree(path, create=create)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="jetdr-store")
        self._closed = False

    def __repr__(self) -> str:
        return f"DirectoryStore({self.url!r})"

    @property
    def url(self) -> str:
        return self._path.as_uri()

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        await self._put("put", key, self._tree.create, data)

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        await self._put("replace", key, self._tree.replace, data)

    async def get(self, key: str) -> bytes:
        check_key(key)
        try:
            return await self._hop("get", key, self._tree.read, key)
        except EOFError:
            raise StoreError("get", key, "the object was cut while it was read", transient=True) from None

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        check_key(key)
        check_range(key, offset, length)
        try:
            return await self._hop("get range", key, self._tree.read_range, key, offset, length)
        except EOFError:
            raise too_short(key, offset, length) from None

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        check_ranges(ranges)
        first = ranges[0].key if ranges else ""
        return await self._hop("get range", first, lambda: [self._read_range(wanted) for wanted in ranges])

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        top, _, name_prefix = prefix.rpartition("/")
        pending = [(top, iter(await self._scan(top, name_prefix)))]
        while pending:
            directory, rows = pending[-1]
            row = next(rows, None)
            if row is None:
                pending.pop()
                continue
            path = f"{directory}/{row.name}" if directory else row.name
            if path.endswith("/"):
                pending.append((path[:-1], iter(await self._scan(path[:-1], ""))))
            else:
                yield ObjectInfo(path, row.size_bytes)

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._hop("delete", key, self._tree.remove, key)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await finish(asyncio.to_thread(self._threads.shutdown))
            self._tree.close()

    async def _put(
        self, operation: str, key: str, step: Callable[[str, list[memoryview]], None], data: Sequence[Buffer]
    ) -> None:
        check_key(key)
        views = byte_views(data)
        try:
            await self._hop(operation, key, step, key, views)
        finally:
            for view in views:  # a thread or a traceback may keep the view, but not the caller's memory
                view.release()

    def _read_range(self, wanted: ObjectRange) -> bytes | StoreError:
        try:
            return self._tree.read_range(*wanted)
        except EOFError:
            return too_short(*wanted)
        except PathMoved:
            return self._lost("get range", wanted.key)
        except OSError as error:
            return failure_of("get range", wanted.key, error, self._path)

    def _lost(self, operation: str, key: str) -> StoreLost:
        return StoreLost(operation, key, f"{str(self._path)!r} no longer leads to the directory that was opened")

    async def _scan(self, directory: str, name_prefix: str) -> list[Row]:
        return await self._hop("list", directory, self._tree.scan, directory, name_prefix)

    async def _hop(self, operation: str, key: str, step: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise store_closed(operation, key)
        try:
            return await finish(wrap(step)(*args, executor=self._threads))
        except PathMoved:
            raise self._lost(operation, key) from None
        except OSError as error:
            raise failure_of(operation, key, error, self._path) from error


def failure_of(operation: str, key: str, error: OSError, path: Path) -> StoreError:
    """Return the store error for ``error`` of the store at ``path``. It says whether the call may succeed later.

    The notes of ``error`` say what was tried.
    """
    code, tried = error.errno or 0, getattr(error, "__notes__", [])
    cause = f"{path}: " + "".join(f"{what} failed: " for what in tried) + (error.strerror or str(error))
    if LINKING in tried and code in _NO_LINKS:
        code = errno.EOPNOTSUPP
    if code == errno.EEXIST and operation == "put":
        return ObjectExists(operation, key)
    if code in (errno.ENOENT, errno.ENOTDIR) and operation.startswith("get"):
        return ObjectNotFound(operation, key)
    if code in _DENIED:
        hint = f"check owner and mode of the store's directory, as user {os.geteuid()} meets them"
        return StoreAccessDenied(operation, key, cause, hint=hint)
    hint = _TRANSIENT.get(code) or _LASTING.get(code) or "check the file system of the store"
    return StoreError(operation, key, cause, transient=code in _TRANSIENT, hint=hint)


def _open_tree(path: Path, *, create: bool) -> ObjectTree:
    try:
        if create:
            make_folders(path, mode=0o700)
        return ObjectTree(path)
    except FileNotFoundError:
        raise InvalidRequest(
            f"store directory {str(path)!r} does not exist", hint="create it, or correct the URL"
        ) from None
    except (NotADirectoryError, FileExistsError):
        raise InvalidRequest(f"store {str(path)!r} is not a directory", hint="name a directory in the URL") from None
    except OSError as error:
        raise failure_of("open", "", error, path) from error
