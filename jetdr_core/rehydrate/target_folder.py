"""TargetFolder: a directory of the target, held by a descriptor, and the only way in which a recovery touches names.

The target may be shared, and somebody else may have put something there: a pipe that never answers, a link to a device
without end, a file of a terabyte under the name of a journal.

Invariants:

- Every name is looked up below the descriptor, and no symbolic link is followed.
- Only regular files are opened, and opening never waits. No more of a file is read than the caller asked for.
- Nothing that exists is replaced: a rename to a name that is taken fails.
- Every failure names the path (:mod:`~jetdr_core.rehydrate.target_failure`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from jetdr_core.durable import make_folders
from jetdr_core.rehydrate.target_failure import in_the_way, target_call

__all__ = ["TargetFolder"]

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_NO_REPLACE = 1
_PROBE = "owner"
_LIBC = ctypes.CDLL(None, use_errno=True)
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class TargetFolder:
    """The directory ``path``, open as ``fd``, which belongs to this object. A context manager that closes it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def look(cls, path: Path) -> Self | None:
        """Open the directory that the caller named, or return None if there is none."""
        with target_call(path, "opening it"):
            try:
                return cls(path, os.open(path, _FOLDER))
            except FileNotFoundError:
                return None

    @classmethod
    def make(cls, path: Path) -> Self:
        """Open the directory that the caller named. It and missing ones above it are created, durably."""
        with target_call(path, "creating it"):
            make_folders(path)
            return cls(path, os.open(path, _FOLDER))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -- folders -------------------------------------------------------------------------------------------------------

    def find_folder(self, name: str) -> TargetFolder | None:
        """Open the folder ``name``, or return None if nothing has that name."""
        path = self.path / name
        with target_call(path, "opening it"):
            try:
                return TargetFolder(path, os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._fd))
            except FileNotFoundError:
                return None

    def make_folder(self, name: str) -> TargetFolder:
        """Open the folder ``name``, which is created with mode 0700, durably, if nothing has that name."""
        path = self.path / name
        with target_call(path, "creating it"):
            try:
                os.mkdir(name, _FOLDER_MODE, dir_fd=self._fd)
                os.fsync(self._fd)
            except FileExistsError:
                pass
            return TargetFolder(path, os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._fd))

    def remove_folder(self, name: str) -> None:
        """Remove the folder ``name`` unless something is in it, or it is gone."""
        with target_call(self.path / name, "removing it"):
            try:
                os.rmdir(name, dir_fd=self._fd)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise

    # -- files ---------------------------------------------------------------------------------------------------------

    def status(self, name: str) -> os.stat_result | None:
        """What has the name, a link not followed, or None if nothing has it."""
        with target_call(self.path / name, "looking at it"):
            try:
                return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def file_status(self, name: str) -> os.stat_result | None:
        """The status of the regular file ``name``, or None if nothing has the name. Anything else is TargetExists."""
        status = self.status(name)
        if status is not None:
            self._check_regular(name, status)
        return status

    def open_file(self, name: str, *, writable: bool = False, create: bool = False) -> int:
        """A descriptor of the regular file ``name``. With ``create`` a missing one is made, with mode 0600.

        A file that has other names too is not opened for writing, because its other name may be of any importance.
        """
        flags = _SAFE | (os.O_RDWR if writable else os.O_RDONLY) | (os.O_CREAT if create else 0)
        self.file_status(name)  # opening a device may have effects
        with target_call(self.path / name, "opening it"):
            fd = os.open(name, flags, _FILE_MODE, dir_fd=self._fd)
            try:
                self._check_regular(name, status := os.fstat(fd))
                if writable and status.st_nlink > 1:
                    raise in_the_way(self.path / name, "a hard link to a file with other names")
            except BaseException:
                os.close(fd)
                raise
            return fd

    def create_file(self, name: str) -> int:
        """A writable descriptor of the new file ``name``, mode 0600. TargetExists if anything has the name."""
        with target_call(self.path / name, "creating it"):
            return os.open(name, _SAFE | os.O_RDWR | os.O_CREAT | os.O_EXCL, _FILE_MODE, dir_fd=self._fd)

    def read_file(self, name: str, bytes_max: int) -> bytes | None:
        """The first ``bytes_max`` bytes of the regular file ``name``, or None if nothing has the name."""
        if self.file_status(name) is None:
            return None
        fd = self.open_file(name)
        try:
            with target_call(self.path / name, "reading it"):
                return b"".join(_chunks(fd, bytes_max))
        finally:
            os.close(fd)

    def digest_of(self, name: str, size_bytes: int) -> bytes | None:
        """The XXH3-128 of the regular file ``name``. None, without reading it, unless it has that size."""
        status = self.file_status(name)
        if status is None or status.st_size != size_bytes:
            return None
        fd, digest = self.open_file(name), xxhash.xxh3_128()
        try:
            with target_call(self.path / name, "reading it"):
                for chunk in _chunks(fd, size_bytes):
                    digest.update(chunk)
        finally:
            os.close(fd)
        return digest.digest()

    def remove_file(self, name: str) -> None:
        """Remove the file ``name``. Idempotent."""
        with target_call(self.path / name, "removing it"), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def move_file(self, name: str, folder: TargetFolder, new_name: str) -> None:
        """Rename the file to ``new_name`` in ``folder``, durably. TargetExists if anything has that name."""
        target = folder.path / new_name
        with target_call(target, f"renaming {self.path / name} to it"):
            _rename_new(self._fd, name, folder._fd, new_name)
            os.fsync(folder._fd)
            os.fsync(self._fd)

    def sync(self) -> None:
        """Make the names in this folder durable."""
        with target_call(self.path, "syncing it"):
            os.fsync(self._fd)

    def is_named(self, fd: int, name: str) -> bool:
        """Whether ``name`` still leads to the file that is open as ``fd``."""
        status = self.status(name)
        with target_call(self.path / name, "looking at it"):
            return status is not None and os.path.samestat(status, os.fstat(fd))

    def check_own(self, *names: str) -> None:
        """Raise :class:`TargetExists` if another user made this folder or a file in it, or may change the file.

        A share may map users and modes, so they are compared with those of a file that this process makes here.
        """
        with target_call(self.path, "creating a file in it"):
            self.remove_file(_PROBE)
            probe = self.create_file(_PROBE)
            try:
                own = os.fstat(probe)
            finally:
                os.close(probe)
                self.remove_file(_PROBE)
            found = [(self.path, os.fstat(self._fd)), *((self.path / name, self.status(name)) for name in names)]
        for path, status in found:
            if status is not None and status.st_uid != own.st_uid:
                raise in_the_way(path, f"another user's (uid {status.st_uid})")
            if status is not None and stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS_WRITE & ~own.st_mode:
                raise in_the_way(path, f"a file that others may change (mode {stat.S_IMODE(status.st_mode):04o})")

    def _check_regular(self, name: str, status: os.stat_result) -> None:
        for is_kind, what in _KINDS:
            if is_kind(status.st_mode):
                raise in_the_way(self.path / name, f"{what}, not a regular file")


def _chunks(fd: int, bytes_max: int) -> Iterator[bytes]:
    left = bytes_max
    while left and (chunk := os.read(fd, min(left, 1 << 20))):
        left -= len(chunk)
        yield chunk


def _rename_new(source_fd: int, source: str, target_fd: int, target: str) -> None:
    """Rename. ``FileExistsError`` if anything has the new name, decided by the kernel where it can do that."""
    renameat2 = getattr(_LIBC, "renameat2", None)
    if renameat2 is not None:
        if renameat2(source_fd, os.fsencode(source), target_fd, os.fsencode(target), _NO_REPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):  # a network file system may know no such rename
            raise OSError(code, os.strerror(code), target)
    try:
        os.stat(target, dir_fd=target_fd, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
