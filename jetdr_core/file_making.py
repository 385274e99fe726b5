"""Making files: what the system's refusal means, in words that name the file, what was tried, and the remedy.

Invariant: an errno that has a remedy is never raised without it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetdr_core.errors import DeviceAccessDenied, DeviceFull, JetdrError, SystemFailure

__all__ = ["making"]

_NO_ROOM = {
    errno.ENOSPC: "free space on that file system, or ask for less",
    errno.EDQUOT: "raise the quota of this user, or ask for less",
    errno.EFBIG: "its file system, or the limit on file sizes (ulimit -f), takes no file so long: ask for less",
}
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NAMED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors about the name itself, which they say."""


@contextmanager
def making(path: str | os.PathLike[str], tried: str) -> Iterator[None]:
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
        raise _explained(Path(path), tried, error) from error


def _explained(path: Path, tried: str, error: OSError) -> SystemFailure:
    number, folder = error.errno or 0, path.absolute().parent
    reason, hint = error.strerror or str(error), "check the device and its file system"
    kind: type[SystemFailure] = SystemFailure
    if number in _NO_ROOM:
        kind, hint = DeviceFull, _NO_ROOM[number]
    elif number in _DENIED:
        kind, hint = DeviceAccessDenied, f"let user {os.geteuid()} write in {folder}, or name another place"
    if number == errno.ENOSPC:
        free = os.statvfs(folder)
        reason = f"no room ({free.f_bavail * free.f_frsize} bytes are free)"
    return kind(f"{path}: {tried} failed: {reason}", hint=hint, errno=number or None, path=str(path))
