"""What identifies a primary: whether anybody but this engine has written to it, and under which generation we last did.

A guest may run unprotected, a disk may be restored from a backup, and two disks may be swapped. The log cannot know of
any of that. So at a clean end it notes the *identity* of each primary, and in write-back each file carries a *stamp*,
the generation that it was last served under.

Invariants: an identity changes with every write to a file, and whenever another file takes its place. Of a block device
it is a sample, because there is nothing else: a change of blocks that are not sampled is not seen.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import xxhash

from jetdr_core.catalog import DiskState
from jetdr_core.domain.generation import Generation
from jetdr_core.durable import remove, replace_file
from jetdr_core.errors import InvalidRequest
from jetdr_core.file_making import trying
from jetdr_core.ownership import open_own
from jetdr_core.replication_log import DISK_IDENTITY_BYTES, ReplicationLog

__all__ = [
    "UNREADABLE",
    "can_carry_stamp",
    "changed_disks",
    "check_stamp_has_place",
    "identity_at_rest",
    "read_stamp",
    "why_changed",
    "why_resync",
    "write_stamp",
]

UNKNOWN = bytes(DISK_IDENTITY_BYTES)
UNREADABLE = bytes(DISK_IDENTITY_BYTES - 1) + b"\2"
"""Of a disk that could not be looked at when the log was closed. No disk is ever found to be that one."""

CLOCK_TICK_NS = 20_000_000
"""Two writes within one tick of the kernel's clock may leave the same time."""

SAMPLE_BYTES = 1 << 20
SAMPLES = 256
SAMPLED_BYTES = 4096
STAMP = "user.jetdr"
STAMP_BYTES_MAX = 96
_BESIDE = re.compile(rb"([0-9]+\.[0-9a-f]{32}) ([0-9]+)")
_BEGUN = re.compile(rb"[0-9]*\.?[0-9a-f]* ?[0-9]*\0*")
_FILE = struct.Struct("<QQqq")  # size, inode, mtime, ctime


def identity_of_disk(path: str, size_bytes: int) -> bytes:
    """Return the identity of the primary at ``path``; zeros if it is not known, as of a caller's open device.

    A block device may have grown since it had ``size_bytes``, and keeps its identity.
    """
    try:
        status = Path(path).stat() if path else None
        if status is None:
            return UNKNOWN
        if stat.S_ISREG(status.st_mode):
            return _digest(_FILE.pack(status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
        return _digest(_sample(path, size_bytes))
    except OSError:
        return UNKNOWN


def identity_at_rest(path: str, size_bytes: int) -> bytes:
    """Return an identity that the primary does not keep if it is written to from now on. May wait for a tick.

    A primary that cannot be looked at gets one that it does not have, because somebody may write to it unnoticed.
    """
    with suppress(OSError):
        status = Path(path).stat() if path else None
        if status is not None and stat.S_ISREG(status.st_mode):
            age_ns = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
            time.sleep(max(0, CLOCK_TICK_NS - max(0, age_ns)) / 1e9)
    identity = identity_of_disk(path, size_bytes)
    return UNREADABLE if path and identity == UNKNOWN else identity


def changed_disks(log: ReplicationLog, placed: Sequence[tuple[DiskState, str]]) -> tuple[DiskState, ...]:
    """Return the disks that are not as the log noted them when it was closed clean.

    ``placed``: the disks and their paths, by ascending number. A log that noted nothing knows of no change.
    """
    noted = log.body.disks if log.outcome.clean else ()
    if not noted:
        return ()
    if len(noted) != len(placed):
        return tuple(disk for disk, _ in placed)
    known = zip(noted, placed, strict=True)
    return tuple(disk for one, (disk, path) in known if one not in {UNKNOWN, identity_of_disk(path, disk.size_bytes)})


def why_resync(changed: Sequence[DiskState], absent: Sequence[DiskState]) -> str:
    """Say which disks are owed a resync, because they were changed or cannot be opened."""
    names = ", ".join(repr(disk.name) for disk in absent)
    failed = [f"disk {names} failed when the domain was opened"] if absent else []
    return "; ".join([*failed, *([why_changed(changed)] if changed else [])])


def why_changed(disks: Sequence[DiskState]) -> str:
    """Say of which disks somebody else has changed the primary."""
    names = ", ".join(repr(disk.name) for disk in disks)
    return f"disk {names}: the primary was changed or replaced since the domain was closed"


def _sample(path: str, size: int) -> bytes:
    """Return a digest of the size, the first and last MiB, and pieces in between, of a block device."""
    with open(path, "rb", buffering=0) as device:
        digest = xxhash.xxh3_128(size.to_bytes(8, "little"))
        whole = [(0, SAMPLE_BYTES), (SAMPLE_BYTES, SAMPLE_BYTES), (max(0, size - SAMPLE_BYTES), SAMPLE_BYTES)]
        pieces = [(size // SAMPLES * number, SAMPLED_BYTES) for number in range(SAMPLES)]
        for offset, length in whole + pieces:
            digest.update(os.pread(device.fileno(), max(0, min(length, size - offset)), offset))
    return digest.digest()


def _digest(raw: bytes) -> bytes:
    """Return a short digest, which is never that of an unknown disk."""
    return xxhash.xxh3_64_digest(raw)[: DISK_IDENTITY_BYTES - 1] + b"\1"


# -- stamps ------------------------------------------------------------------------------------------------------------


def can_carry_stamp(path: str) -> bool:
    """Whether a stamp can stay with the disk: with a file, but not with a block device."""
    with trying(path, "looking at it"):
        return Path(path).is_file()


def write_stamp(path: str, generation: Generation) -> None:
    """Note in the file, durably, that it is served under ``generation``. Where that cannot be, in a file beside it."""
    if not can_carry_stamp(path):
        return
    text = str(generation).encode()
    try:
        os.setxattr(path, STAMP, text)
        with open(path, "rb") as disk:
            os.fsync(disk.fileno())
        if _BESIDE.fullmatch(_read_own(_beside(path)) or b""):
            remove(_beside(path))
    except OSError:
        _write_beside(path, text)


def read_stamp(path: str) -> Generation | None:
    """Return the generation that the disk was last served under, or None if it does not say."""
    try:
        text = _read_beside(path) or os.getxattr(path, STAMP)
        return Generation.parse(text.decode())
    except (OSError, ValueError):
        return None


def check_stamp_has_place(path: str) -> None:
    """Refuse a disk whose file takes no stamp, if something else has the name of the file that would hold it."""
    try:
        if can_carry_stamp(path):
            os.getxattr(path, STAMP)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            _check_names_beside(path)


def _beside(path: str) -> Path:
    return Path(f"{path}.jetdr")


def _read_beside(path: str) -> bytes | None:
    """Return the stamp in the file beside a disk. None without one: whatever else has that name is not ours.

    The file also holds the disk's inode number. A disk that was restored beside the stamp of another has its own.
    """
    found = _BESIDE.fullmatch(_read_own(_beside(path)) or b"")
    return found[1] if found and int(found[2]) == Path(path).stat().st_ino else None


def _read_own(path: Path) -> bytes | None:
    """Return what an own file holds, or None if there is none: not a link, not a pipe, not another user's."""
    try:
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            return file.read(STAMP_BYTES_MAX + 1)
    except (OSError, InvalidRequest):
        return None


def _is_begun(path: Path) -> bool:
    """Whether the file holds a stamp, or as much of one as a process had written when it died."""
    text = _read_own(path)
    return text is not None and _BEGUN.fullmatch(text) is not None


def _names_beside(path: str) -> tuple[Path, Path]:
    """The name of a stamp beside the disk, and the name that it has until it is whole."""
    return _beside(path), Path(f"{path}.jetdr.new")


def _check_names_beside(path: str) -> None:
    for place in _names_beside(path):
        if os.path.lexists(place) and not _is_begun(place):
            raise InvalidRequest(
                f"{place} has the name of the stamp of disk {path}, and is none: it was left as it is",
                hint="move it away",
            )


def _write_beside(path: str, text: bytes) -> None:
    beside, new = _names_beside(path)
    _check_names_beside(path)
    try:
        replace_file(beside, new, text + b" %d" % Path(path).stat().st_ino)
    except OSError as error:
        raise InvalidRequest(
            f"disk {path}: neither the file nor its folder takes the generation that it is served under: {error}",
            hint="use a file system with extended attributes, or let this user write to the folder",
        ) from error
