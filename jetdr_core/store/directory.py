"""DirectoryStore: a container in a directory of a local or network file system.

A slow disk must hold up neither the event loop nor the threads that compress. So each operation is one hop to a thread
of the store's own, where :class:`~jetdr_core.store.tree.ObjectTree` does all its steps. A domain's store lets a process
of its own do them, because a domain must end in order although the file system hangs. A command keeps to threads:
it starts sooner, holds nothing that anybody waits for, and a signal ends it.

Invariants: once a call has ended, even by cancellation, no thread touches its buffers. ``put_if_absent`` and
``replace`` are durable at return: file, directory and new parent directories are synced. ``delete`` is not, so a power
loss may bring the object back. Every ``OSError`` becomes a :class:`StoreError` here, and is classified as transient or
lasting.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeGuard

from aiofiles.os import wrap
from typing_extensions import Buffer

from jetdr_core.aio import finish
from jetdr_core.durable import make_folders
from jetdr_core.errors import (
    InvalidRequest,
    JetdrError,
    ObjectExists,
    ObjectNotFound,
    ObjectUnavailable,
    StoreAccessDenied,
    StoreError,
    StoreLost,
    StoreMissing,
    StoreUnmounted,
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
from jetdr_core.store.tree import LINKING, FileSystemAway, ObjectTree, PathMoved, Row
from jetdr_core.store.tree_call import TreeCall, TreeStep, perform, rows_of
from jetdr_core.store.tree_process import TreeAway, TreeNotOpened, TreeProcess

__all__ = ["DirectoryStore"]

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
_GONE = {errno.ENOENT, errno.ENOTDIR}
_OF_THE_OBJECT = {
    errno.EACCES: "check owner and mode of the object's file",
    errno.EPERM: "check owner, mode and attributes of the object's file",
    errno.EIO: "a part of the disk cannot be read: bring the object back from a copy of the container",
}
"""Remedies of what getting one object may answer while its folder can be listed."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}
"""What file systems without hard links answer to link(2): exFAT and FAT say EPERM."""

FAILURES = (OSError, PathMoved, FileSystemAway, TreeAway, TreeNotOpened)
"""What a tree raises for other reasons than a wrong call."""


class _Hands(Protocol):
    """What makes the calls of a tree."""

    async def call(self, call: TreeCall, views: Sequence[memoryview]) -> bytes: ...

    async def call_each(self, calls: Sequence[TreeCall]) -> list[bytes | Exception]: ...

    async def close(self) -> None: ...


class _Threads:
    """Threads of this process. :meth:`close` waits for what they do."""

    def __init__(self, tree: ObjectTree, count: int) -> None:
        self._tree = tree
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="jetdr-store")

    async def call(self, call: TreeCall, views: Sequence[memoryview]) -> bytes:
        return await finish(wrap(perform)(self._tree, call, views, executor=self._threads))

    async def call_each(self, calls: Sequence[TreeCall]) -> list[bytes | Exception]:
        """For many small reads a hop of each would cost more than the reads."""
        return await finish(wrap(self._try_each)(calls, executor=self._threads))

    def _try_each(self, calls: Sequence[TreeCall]) -> list[bytes | Exception]:
        return [self._try(call) for call in calls]

    def _try(self, call: TreeCall) -> bytes | Exception:
        try:
            return perform(self._tree, call, ())
        except Exception as error:  # noqa: BLE001 - it is the result
            return error

    async def close(self) -> None:
        await finish(asyncio.to_thread(self._threads.shutdown))
        self._tree.close()


class DirectoryStore:
    """The container at the absolute ``path``. Without ``create`` it must exist.

    ``apart``: a process of its own does the I/O, so that no call and no close waits for a file system that hangs. The
    process is started, and the container opened, by the first call.
    """

    def __init__(
        self, path: Path, *, create: bool = False, threads: int = THREADS_DEFAULT, apart: bool = False
    ) -> None:
        self._path = path
        self._hands: _Hands = (
            TreeProcess(path, create=create) if apart else _Threads(_open_tree(path, create=create), threads)
        )
        self._closed = False

    def __repr__(self) -> str:
        return f"DirectoryStore({self.url!r})"

    @property
    def url(self) -> str:
        return self._path.as_uri()

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        await self._put("put", TreeStep.CREATE, key, data)

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        await self._put("replace", TreeStep.REPLACE, key, data)

    async def get(self, key: str) -> bytes:
        check_key(key)
        try:
            return await self._hop("get", TreeCall(TreeStep.READ, key))
        except EOFError:
            raise StoreError("get", key, "the object was cut while it was read", transient=True) from None

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        check_key(key)
        check_range(key, offset, length)
        try:
            return await self._hop("get range", TreeCall(TreeStep.READ_RANGE, key, offset, length))
        except EOFError:
            raise too_short(key, offset, length) from None

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        check_ranges(ranges)
        if self._closed:
            raise store_closed("get range", ranges[0].key if ranges else "")
        answers = await self._hands.call_each([TreeCall(TreeStep.READ_RANGE, *wanted) for wanted in ranges])
        return [await self._range_of(wanted, answer) for wanted, answer in zip(ranges, answers, strict=True)]

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        directory = prefix.rpartition("/")[0]
        pending = [(directory, iter(await self._scan(prefix)))]
        while pending:
            directory, rows = pending[-1]
            row = next(rows, None)
            if row is None:
                pending.pop()
                continue
            path = f"{directory}/{row.name}" if directory else row.name
            if path.endswith("/"):
                pending.append((path[:-1], iter(await self._scan(path))))
            else:
                yield ObjectInfo(path, row.size_bytes)

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._hop("delete", TreeCall(TreeStep.REMOVE, key))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._hands.close()

    async def _put(self, operation: str, step: TreeStep, key: str, data: Sequence[Buffer]) -> None:
        check_key(key)
        views = byte_views(data)
        try:
            await self._hop(operation, TreeCall(step, key), views)
        finally:
            for view in views:  # a thread or a traceback may keep the view, but not the caller's memory
                view.release()

    async def _scan(self, prefix: str) -> list[Row]:
        return rows_of(await self._hop("list", TreeCall(TreeStep.SCAN, prefix)))

    async def _hop(self, operation: str, call: TreeCall, views: Sequence[memoryview] = ()) -> bytes:
        if self._closed:
            raise store_closed(operation, call.key)
        try:
            return await self._hands.call(call, views)
        except FAILURES as error:
            if not _may_be_of_the_object(error, operation):
                raise self._failure(operation, call.key, error) from error
            first = error
        return await self._hop_again(operation, call, first)

    async def _hop_again(self, operation: str, call: TreeCall, first: OSError) -> bytes:
        """Get once more what was denied or failed, if the object's folder can be listed.

        The folder tells an object that fails from a file system that does. If getting fails again, the error is one of
        that object, and lasts.
        """
        whole = self._failure(operation, call.key, first)
        try:
            await self._scan(call.key.rpartition("/")[0] + "/" if "/" in call.key else "")
        except StoreError:
            raise whole from first
        try:
            return await self._hands.call(call, ())
        except FAILURES as error:
            failure = self._failure(operation, call.key, error)
            if _may_be_of_the_object(error, operation) and isinstance(failure, StoreError):
                hint = _OF_THE_OBJECT.get(error.errno or 0) or failure.hint
                failure = ObjectUnavailable(operation, call.key, failure.cause, hint=hint)
            raise failure from error

    async def _range_of(self, wanted: ObjectRange, answer: bytes | Exception) -> bytes | StoreError:
        if isinstance(answer, bytes):
            return answer
        failure = too_short(*wanted) if isinstance(answer, EOFError) else answer
        if _may_be_of_the_object(failure, "get range"):
            try:
                return await self._hop_again("get range", TreeCall(TreeStep.READ_RANGE, *wanted), failure)
            except EOFError:
                return too_short(*wanted)
            except StoreError as error:
                return error
        if isinstance(failure, FAILURES):
            failure = self._failure("get range", wanted.key, failure)
        if isinstance(failure, StoreError):
            return failure
        raise failure

    def _failure(self, operation: str, key: str, error: Exception) -> JetdrError:
        """Return what a caller is told of an error of the tree."""
        match error:
            case PathMoved():
                cause = f"{str(self._path)!r} no longer leads to the directory that was opened"
                return StoreLost(operation, key, cause)
            case FileSystemAway():
                cause = f"{str(self._path)!r} is not mounted: it leads to another file system than the store's"
                return StoreUnmounted(operation, key, cause)
            case TreeNotOpened():
                return _refusal(self._path, error.error)
            case OSError():
                return failure_of(operation, key, error, self._path)
        hint = "check the file system of the store"
        return StoreError(operation, key, f"{self._path}: {error}", transient=True, hint=hint)


def _may_be_of_the_object(error: Exception, operation: str) -> TypeGuard[OSError]:
    """Whether a look at the folder of the object tells if ``error`` is one of this object or of the whole store."""
    if not isinstance(error, OSError) or not operation.startswith("get"):
        return False
    return error.errno not in _GONE and (error.errno in _OF_THE_OBJECT or error.errno not in _TRANSIENT)


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
    if code in _GONE and operation.startswith("get"):
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
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> JetdrError:
    """Return the error of a container that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return StoreMissing(
            f"store directory {str(path)!r} does not exist", hint="mount its file system, create it, or correct the URL"
        )
    if isinstance(error, NotADirectoryError | FileExistsError):
        return InvalidRequest(f"store {str(path)!r} is not a directory", hint="name a directory in the URL")
    return failure_of("open", "", error, path)
