"""Making and locking files: what the system's refusal means, with the file, what was tried, and the remedy.

Invariant: an errno that has a remedy is never raised without it, and no remedy is named that does not help. A smaller
size or another place helps only where the caller asked for that size or place. A state folder that moves, for example,
forgets what it knew.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetdr_core.errors import DeviceAccessDenied, DeviceBusy, DeviceFull, InvalidRequest, JetdrError, SystemFailure

__all__ = ["Asked", "lock_file", "making", "read_regular_file", "remedy_of", "told", "trying"]


class Asked(enum.Flag):
    """What the caller asked for, and might ask for otherwise."""

    NOTHING = 0
    SIZE = enum.auto()
    PLACE = enum.auto()


_NO_ROOM = {
    errno.ENOSPC: "free space on that file system",
    errno.EDQUOT: "raise the quota of this user",
    errno.EFBIG: "its file system, or the file size limit (ulimit -f), takes no file so long: use another, raise it",
}
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_OTHER = {
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit on open files (fs.file-max)",
    errno.ENOMEM: "free memory",
}
_SAID = " failed: "
_NAMED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors about the name itself, which they say."""
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is no directory: check it",
    errno.EISDIR: "that is a directory: name a file",
    errno.EEXIST: "something has that name already: choose another",
    errno.ELOOP: "check the symbolic links of the path",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.EACCES: "check its owner and mode, or use another account",
    errno.EPERM: "check its owner, mode and attributes, or use another account",
    errno.EROFS: "the file system is mounted read-only: remount it, or name another place",
    errno.EADDRINUSE: "another program listens there: stop it, or name another address",
    errno.EADDRNOTAVAIL: "this machine does not have that address: name another",
    errno.ECONNREFUSED: "nothing listens there: check the address, and whether the program runs",
    errno.ENETUNREACH: "check the network",
    errno.EHOSTUNREACH: "check the network and the address",
    errno.ETIMEDOUT: "check the network and the address",
    errno.ENOLCK: "start the lock service of the share, or use a local file system",
    errno.EBUSY: "end what uses it, or name another place",
    errno.ETXTBSY: "end what uses it, or name another place",
    errno.EIO: "check the device or the network under it",
    errno.ESTALE: "check the network file system",
    errno.EOPNOTSUPP: "its file system cannot do that: use another",
    errno.ENOSYS: "this kernel or file system cannot do that: use another",
    errno.ENXIO: "check the device",
    errno.ENODEV: "check the device",
}


def remedy_of(code: int | None) -> str:
    """What a person can do about an errno, never empty."""
    return (
        _NO_ROOM.get(code or 0)
        or _OTHER.get(code or 0)
        or _REMEDIES.get(code or 0)
        or "check the device and its file system"
    )


def told(error: BaseException) -> str:
    """What an error says, with path and remedy if the system raised it. May be empty."""
    if isinstance(error, JetdrError) or not isinstance(error, OSError) or not error.strerror:
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}; {remedy_of(error.errno)}"


def read_regular_file(path: str | os.PathLike[str], bytes_max: int, *, private: bool = False) -> bytes:
    """The content of a regular file, of at most ``bytes_max`` bytes. Never waits for a pipe.

    :class:`InvalidRequest` for anything else, for a longer file, and with ``private`` if others than its owner may use
    it. ``OSError`` if it cannot be read.
    """
    name = os.fspath(path)
    with trying(name, "opening it"):
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with trying(name, "reading it"), os.fdopen(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise InvalidRequest(f"{name} is no regular file", hint="name a file")
        if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InvalidRequest(f"{name} is open to others than its owner", hint=f"chmod 600 {name}")
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise InvalidRequest(f"{name} is longer than {bytes_max} bytes", hint="name the file that is meant")
    return content


def lock_file(fd: int, path: str | os.PathLike[str]) -> None:
    """Lock the open file exclusively. :class:`DeviceBusy` if another process has it locked."""
    name = os.fspath(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DeviceBusy(
            f"{name} is in use by another process", hint="stop that process, or name another", path=name
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise SystemFailure(
            f"{name}: locking it failed: {reason}", hint=remedy_of(error.errno), errno=error.errno, path=name
        ) from error


@contextmanager
def trying(path: str | os.PathLike[str], tried: str) -> Iterator[None]:
    """Say in an ``OSError`` of the body that ``tried`` failed on ``path``. The system says neither for a descriptor.

    It stays the same error, so callers still tell it by class and errno. What an inner block has said is kept.
    """
    try:
        yield
    except OSError as error:
        _name(error, os.fspath(path), tried)
        raise


def _name(error: OSError, path: str, tried: str) -> None:
    is_named = isinstance(error.filename, str | bytes)
    is_other = is_named and error.filename2 is None and os.fsdecode(error.filename) != path
    if isinstance(error, JetdrError) or error.errno is None or is_other or _SAID in (error.strerror or ""):
        return
    error.strerror = f"{tried}{_SAID}{error.strerror or os.strerror(error.errno)}"
    error.filename = path


@contextmanager
def making(path: str | os.PathLike[str], tried: str, asked: Asked = Asked.NOTHING) -> Iterator[None]:
    """Explain an ``OSError`` of the body, which makes or grows the file ``path``. ``tried`` says how, with the size.

    :class:`DeviceFull` if there is no room for it or it would be too long, :class:`DeviceAccessDenied` if this user may
    not make it, :class:`SystemFailure` otherwise. Errors about the name stay as they are.
    """
    try:
        yield
    except JetdrError:
        raise
    except OSError as error:
        if error.errno in _NAMED:
            _name(error, os.fspath(path), tried)
            raise
        raise _explained(Path(path), tried, asked, error) from error


def _explained(path: Path, tried: str, asked: Asked, error: OSError) -> SystemFailure:
    number, folder = error.errno or 0, path.absolute().parent
    reason, hint = error.strerror or str(error), _OTHER.get(number, "check the device and its file system")
    kind: type[SystemFailure] = SystemFailure
    if number in _NO_ROOM:
        kind, hint = DeviceFull, _NO_ROOM[number] + (", or ask for less" if Asked.SIZE in asked else "")
    elif number in _DENIED:
        kind, hint = DeviceAccessDenied, f"let user {os.geteuid()} write in {folder}"
        if number == errno.EROFS:
            hint = "mount that file system for writing"
        hint += ", or name another place" if Asked.PLACE in asked else ""
    if number == errno.ENOSPC and (free := _room_of(folder)) is not None:
        has_inodes = free.f_favail > 0 or not free.f_files
        reason = f"no room ({free.f_bavail * free.f_frsize} bytes are free)" if has_inodes else "no inode is free"
        hint = hint if has_inodes else "remove files from that file system"
    return kind(f"{path}: {tried}{_SAID}{reason.rpartition(_SAID)[2]}", hint=hint, errno=number or None, path=str(path))


def _room_of(folder: Path) -> os.statvfs_result | None:
    """The room of a file system, if it tells. It may have gone meanwhile."""
    try:
        return os.statvfs(folder)
    except OSError:
        return None
