"""Who uses a file or block device now, as the kernel tells it: without a lock, and without opening anything.

A check that took a lock, if only for an instant, could make a DRVA fail that starts at that instant.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from jetdr_core.drva.config import LOCK_NAME
from jetdr_core.file_making import trying

__all__ = ["Holder", "device_use", "holders_of", "is_running"]

_LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has locked a file. ``pid`` is 0 if the kernel does not say which."""

    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} ({_command(self.pid)})" if self.pid else "another process"


def holders_of(path: Path) -> tuple[Holder, ...]:
    """Return who holds an exclusive lock on the file or device node. Locks of other PID namespaces are not seen."""
    with trying(path, "looking at it"):
        status = path.stat()
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with trying(_LOCKS, "reading the kernel's locks"):
        rows = [line.split() for line in _LOCKS.read_text().splitlines()]
    held = [row for row in rows if "->" not in row and wanted in row and "WRITE" in row]
    return tuple(Holder(max(0, int(row[4]))) for row in held)


def is_running(runtime_dir: Path) -> bool:
    """Whether a DRVA holds the runtime directory. ``PermissionError`` if this user may not look."""
    try:
        return bool(holders_of(runtime_dir / LOCK_NAME))
    except (FileNotFoundError, NotADirectoryError):
        return False


def device_use(path: Path) -> str:
    """Return what the system uses a block device or one of its partitions for. Empty if it does not, or for a file."""
    with trying(path, "looking at it"):
        status = path.stat()
    if not stat.S_ISBLK(status.st_mode):
        return ""
    with trying(path, "looking what the system uses it for"):
        return _use_of(path, status.st_rdev)


def _use_of(path: Path, device: int) -> str:
    numbers = {device: path.name}
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for part in place.glob("*/dev"):
        major, minor = part.read_text().strip().split(":")
        numbers[os.makedev(int(major), int(minor))] = part.parent.name
    names = {f"{os.major(number)}:{os.minor(number)}": name for number, name in numbers.items()}
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        if fields[2] in names:
            return f"{names[fields[2]]} is mounted at {fields[4]}"
    if holders := sorted(holder.name for holder in place.glob("holders/*")):
        return f"it is part of {', '.join(holders)}"
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        swap = Path(line.split()[0])
        if swap.exists() and swap.stat().st_rdev in numbers:
            return "it is swap space"
    return ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended"
