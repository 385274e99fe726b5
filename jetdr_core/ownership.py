"""Ownership: which files and folders are believed. What another user can change decides nothing.

A state folder decides whether a log is replayed over the primaries, a runtime folder which process serves them. A user
who can write to such a folder, or replace it by another, decides in our place.

Invariants: only :func:`make_private` changes anything. A path is checked from the root down, through every symbolic
link, so that afterwards only root and this user can make it lead elsewhere. A file that does not exist yet is not
refused, because it is made in a folder that was checked.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jetdr_core.durable import make_folders
from jetdr_core.errors import InvalidRequest
from jetdr_core.file_making import trying

__all__ = [
    "check_guarded",
    "check_in_memory",
    "check_private",
    "file_system_of",
    "link_flags",
    "make_private",
    "mounted_at",
    "nearest_existing",
    "open_own",
]

_ROOT = 0
_LINKS_MAX = 40
"""As many as the kernel follows."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_IN_MEMORY = frozenset({"tmpfs", "hugetlbfs"})
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_guarded(what: str, path: Path, *, user: int | None = None) -> None:
    """Refuse ``path`` if others than root and ``user`` can change it, or can change where it leads.

    ``user`` is this user by default. A folder with the sticky bit, like ``/tmp``, is no reason: others cannot rename or
    remove what is in it.
    """
    user = os.geteuid() if user is None else user
    for place, status in _way(path):
        if reason := _open_to_others(status, user):
            where = "" if place == path else f": {place}"
            raise InvalidRequest(
                f"{what} {path}{where} {reason}",
                hint=f"make it root's or this user's, and let nobody else write there (chown {user} and "
                f"chmod go-w {place}), or name another place",
            )


def check_private(what: str, folder: Path, *, user: int | None = None) -> None:
    """Refuse ``folder`` unless it is guarded, and ``user``'s alone: owned by it, with no access for others."""
    user = os.geteuid() if user is None else user
    check_guarded(what, folder, user=user)
    try:
        with trying(folder, "looking at it"):
            status = folder.stat()
    except FileNotFoundError:
        return
    kind = f"{_kind_of(status.st_mode)} on {file_system_of(folder) or 'an unknown file system'}"
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidRequest(f"{what} {folder} is no folder, but {kind}", hint="name another, or move that away")
    if status.st_uid != user or status.st_mode & _OTHERS:
        raise InvalidRequest(
            f"{what} {folder} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}: it is "
            f"{kind}",
            hint=f"chown {user} and chmod 0700 {folder}, so that it is this user's alone, or name another place",
        )


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file",
        stat.S_IFSOCK: "a socket",
        stat.S_IFIFO: "a pipe",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }
    return kinds.get(stat.S_IFMT(mode), "something")


def check_in_memory(what: str, folder: Path) -> None:
    """Raise :class:`InvalidRequest` unless ``folder`` lies on tmpfs, or will when it is made."""
    kind = file_system_of(nearest_existing(folder))
    if kind and kind not in _IN_MEMORY:
        raise InvalidRequest(
            f"{what} {folder} lies on {kind}, so guests would wait for a disk",
            hint="name a folder on tmpfs, such as /run/jetdr or one in /dev/shm; in a container, mount a tmpfs there",
        )


def nearest_existing(path: Path) -> Path:
    """Return ``path``, or the nearest folder above it that exists: what is made at ``path`` will be in there.

    A symbolic link stands for where it leads, even if nothing is there yet.
    """
    with trying(path, "looking for it"):
        real = Path(os.path.realpath(path))
        return next(place for place in (real, *real.parents) if place.exists())


def file_system_of(path: Path) -> str:
    """The type of the file system that holds ``path``, such as ``ext4``. Empty if the system does not tell."""
    row = _mount_row(path)
    return row[row.index("-", 6) + 1] if row else ""


def mounted_at(path: Path) -> str:
    """Return where the file system is mounted that holds ``path``, or ``path`` if the system does not tell."""
    row = _mount_row(path)
    return _unescaped(row[4]) if row else str(path)


def _mount_row(path: Path) -> list[str]:
    """The row of the kernel's table of mounts for the innermost one of that device that ``path`` lies in."""
    with trying(path, "looking at it"):
        device, here = path.stat().st_dev, path.resolve()
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    rows = [row for row in (line.split(" ") for line in mounts) if row[2] == wanted]
    around = [row for row in rows if here.is_relative_to(_unescaped(row[4]))]
    return max(around or rows[:1], key=lambda row: len(row[4]), default=[])


def _unescaped(place: str) -> str:
    """A path of the table of mounts, in which a space is ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)


def make_private(what: str, folder: Path) -> None:
    """Create ``folder`` with mode 0700 if it is missing, durably, and see that it is private."""
    check_guarded(what, folder)
    make_folders(folder, mode=0o700)
    check_private(what, folder)


def link_flags(path: str) -> int:
    """Return the flags with which to open ``path``, so that no symbolic link of another user is followed.

    The owner of the folder of a disk could otherwise have any file of this machine served as that disk.
    :class:`InvalidRequest` if there is such a link.
    """
    try:
        with trying(path, "looking at it"):
            status = os.lstat(path)
    except FileNotFoundError:
        return os.O_NOFOLLOW
    if not stat.S_ISLNK(status.st_mode):
        return os.O_NOFOLLOW
    if status.st_uid not in {_ROOT, os.geteuid()}:
        raise InvalidRequest(
            f"{path} is a symbolic link of user {status.st_uid}, who decides where it leads",
            hint="name the file itself",
        )
    return 0


def open_own(path: Path, flags: int) -> int:
    """Open the file ``path`` if an earlier run of this user made it, in a folder where others may have put anything.

    :class:`InvalidRequest` for a symbolic link, anything else that is no regular file, and a file that another user
    made or can change. Nothing of it is read then.
    """
    try:
        with trying(path, "opening it"):
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
            raise
        raise _not_own(path, "is no regular file") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _not_own(path, "is no regular file")
        if status.st_uid not in {os.geteuid(), _owner_of_new_files(path.parent, status.st_uid)}:
            raise _not_own(path, f"belongs to user {status.st_uid}")
        if status.st_mode & _OTHERS_WRITE:
            raise _not_own(path, f"may be changed by others (mode {stat.S_IMODE(status.st_mode):04o})")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _not_own(path: Path, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path} {reason}: no run of this user made it", hint="remove it, or use another place")


def _owner_of_new_files(folder: Path, claimed: int) -> int:
    """Whose a file is that this user makes in ``folder``: a network file system may give it to another user."""
    if claimed == os.geteuid():
        return claimed
    with (
        trying(folder, "making a file in it, to see whose new files are,"),
        tempfile.NamedTemporaryFile(dir=folder, prefix=".jetdr-") as probe,
    ):
        return os.fstat(probe.fileno()).st_uid


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each folder and symbolic link that ``path`` leads through, and then what it leads to, as far as they exist."""
    here, names, links = Path("/"), [*reversed(path.absolute().parts[1:])], 0
    with trying(here, "looking at it"):
        status = here.lstat()
    yield here, status
    while names:
        here /= names.pop()
        try:
            with trying(here, "looking at it"):
                status = here.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        yield here, status
        if stat.S_ISLNK(status.st_mode):
            with trying(here, "reading the link"):
                target, links = here.readlink(), links + 1
            names += reversed(target.parts[target.is_absolute() :])
            here = Path("/") if target.is_absolute() else here.parent
            if links > _LINKS_MAX:
                return  # nobody can open it


def _open_to_others(status: os.stat_result, user: int) -> str:
    """Why others than root and ``user`` can change the thing; empty if they cannot."""
    if status.st_uid not in {_ROOT, user}:
        return f"belongs to user {status.st_uid}"
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    is_checked = stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)  # of a device the system decides
    if is_checked and status.st_mode & _OTHERS_WRITE and not is_sticky:
        return f"may be changed by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""
