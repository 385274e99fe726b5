"""Making files: what the system's refusal means, in words that name the file, what was tried, and the remedy.

Invariant: an errno that has a remedy is never raised without it, and no remedy is named that does not help. A smaller
size or another place helps only where the caller asked for that size or place. A state folder that moves, for example,
forgets what it knew.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetdr_core.errors import DeviceAccessDenied, DeviceFull, JetdrError, SystemFailure

__all__ = ["Asked", "making"]


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
_NAMED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors about the name itself, which they say."""


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
    if number == errno.ENOSPC:
        free = os.statvfs(folder)
        has_inodes = free.f_favail > 0 or not free.f_files
        reason = f"no room ({free.f_bavail * free.f_frsize} bytes are free)" if has_inodes else "no inode is free"
        hint = hint if has_inodes else "remove files from that file system"
    return kind(f"{path}: {tried} failed: {reason}", hint=hint, errno=number or None, path=str(path))
