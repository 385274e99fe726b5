"""What the operating system refused in the target directory, told with the file, its size and the remedy.

Invariant: no bare ``OSError`` leaves a recovery. An errno alone says nothing to the operator: the same number means a
full disk in one place and a planted link in another. So each call says what it was about to do, and to which path.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetdr_core.errors import JetdrError, TargetExists, TargetFailed, TargetFull

__all__ = ["in_the_way", "target_call", "target_failure"]

_NO_ROOM = {
    errno.ENOSPC: "free space or choose another target, and run this again",
    errno.EDQUOT: "raise the quota or choose another target, and run this again",
    errno.EFBIG: "raise the file size limit (ulimit -f), or choose a file system that takes files of that size",
}
_IN_THE_WAY = {
    errno.ELOOP: "a symbolic link",
    errno.ENXIO: "a pipe, a socket or a device",
    errno.EISDIR: "a directory",
    errno.ENOTDIR: "not a directory",
    errno.EEXIST: "there already",
    errno.ENOTEMPTY: "a directory that is not empty",
    errno.EXDEV: "on another file system",
}
_REMEDIES = {
    errno.EACCES: "check owner and mode, or choose another target",
    errno.EPERM: "check owner, mode and attributes, or choose another target",
    errno.EROFS: "the file system is mounted read-only: remount it or choose another target",
    errno.ENOLCK: "start the lock service of the share, or choose a target on a local file system",
    errno.EOPNOTSUPP: "choose a target on another file system",
    errno.ENOSYS: "choose a target on another file system",
    errno.EIO: "check the disk or the network under the target",
    errno.ESTALE: "check the network file system",
    errno.ETIMEDOUT: "check the network file system",
    errno.ENAMETOOLONG: "choose a target with a shorter path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (fs.file-max)",
    errno.ENOENT: "it was removed meanwhile: run this again",
}


def target_failure(path: Path, doing: str, error: OSError, *, size_bytes: int | None = None) -> JetdrError:
    """The error for ``error``, which occurred while ``doing`` (such as "writing it") something to ``path``.

    ``size_bytes`` is the size that the file must have, if that is known.
    """
    code = error.errno or 0
    cause = error.strerror or str(error)
    size = "" if size_bytes is None else f" ({size_bytes} bytes)"
    if code in _NO_ROOM:
        return TargetFull(
            f"{path}{size}: {doing} failed: {cause}",
            hint=_NO_ROOM[code],
            errno=code,
            path=path,
            needed_bytes=size_bytes,
        )
    if code in _IN_THE_WAY:
        return in_the_way(path, _IN_THE_WAY[code], errno=code)
    return TargetFailed(
        f"{path}{size}: {doing} failed: {cause}",
        hint=_REMEDIES.get(code, "check the target's file system"),
        errno=code,
        path=path,
    )


def in_the_way(path: Path, what: str, *, errno: int = errno.EEXIST) -> TargetExists:
    """The error for something with the name of a recovery's file that no recovery made."""
    return TargetExists(f"{path} is {what}", hint="remove it or choose another target", errno=errno, path=path)


@contextmanager
def target_call(path: Path, doing: str, *, size_bytes: int | None = None) -> Iterator[None]:
    """Translate the ``OSError`` of the body with :func:`target_failure`. Errors of the engine pass as they are."""
    try:
        yield
    except JetdrError:
        raise
    except OSError as error:
        raise target_failure(path, doing, error, size_bytes=size_bytes) from error


assert not {*_NO_ROOM} & {*_IN_THE_WAY}, "an errno has one meaning"
