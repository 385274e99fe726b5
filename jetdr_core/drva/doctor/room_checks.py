"""Checks of the room on every file system that the DRVA writes to."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from jetdr_core.device import is_iscsi
from jetdr_core.drva.config import DrvaConfig
from jetdr_core.drva.doctor.finding import Check, Finding, doubtful, good, wrong
from jetdr_core.file_making import trying
from jetdr_core.limits import SECTOR_BYTES
from jetdr_core.ownership import mounted_at, nearest_existing
from jetdr_core.store.connect import directory_of
from jetdr_core.store.url import StoreUrl

__all__ = ["not_writable", "read_only_remedy", "room_checks"]

FREE_LEAST = 0.05
"""The part of a file system that is free before its room becomes doubtful."""


def room_checks(config: DrvaConfig) -> Iterator[Check]:
    """One check for each place. A domain's ring is made once, so it needs room only before that."""
    runtime = config.runtime_dir
    rings = sum(
        domain.options.ring_bytes for domain in config.domains if not os.path.lexists(runtime / domain.name / "ring")
    )
    yield Check(
        "room: runtime_dir", partial(_look_at_room, runtime, rings, "the rings of its domains"), needs=("runtime_dir",)
    )
    yield Check("room: state_dir", partial(_look_at_room, config.state_dir, 0, ""), needs=("state_dir",))
    for volume in config.volumes:
        wanted = sum(domain.section_bytes for domain in config.domains if domain.volume == volume)
        if not is_iscsi(volume.path):
            look = partial(_look_at_log, Path(volume.path), wanted)
            yield Check(f"room: volume {volume.name}", look, needs=(f"volume {volume.name}",))
    for folder, disks in _disk_folders(config).items():
        needs = tuple(f"disk {name}" for name in disks)
        look = partial(_look_at_files, folder, list(disks.values()))
        yield Check(f"room: disk {', '.join(disks)}", look, needs=needs)
    for domain in config.domains:
        if domain.store.startswith("file:"):
            look = partial(_look_at_store, StoreUrl.of(domain.store))
            yield Check(f"room: store of {domain.name}", look, needs=(f"domain {domain.name}: store",))


def _disk_folders(config: DrvaConfig) -> dict[Path, dict[str, Path]]:
    """The folders of the disks, with the names and the paths of the disks."""
    folders: dict[Path, dict[str, Path]] = defaultdict(dict)
    for domain in config.domains:
        for disk in domain.disk:
            folders[Path(disk.path).parent][f"{domain.name}/{disk.name}"] = Path(disk.path)
    return folders


def _look_at_files(folder: Path, files: Sequence[Path]) -> Finding:
    """Files that have all their space need no more room, however full their file system is."""
    there = nearest_existing(folder)
    if os.statvfs(there).f_flag & os.ST_RDONLY or not all(map(_has_its_space, files)):
        return _look_at_room(folder, 0, "")
    return good(f"{there}: what lies there has all its space")


def _has_its_space(path: Path) -> bool:
    """Whether the file has space for every byte of its size. A device has its own, and a missing file has none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(status.st_mode) or SECTOR_BYTES * status.st_blocks >= status.st_size


def _look_at_log(path: Path, wanted: int) -> Finding:
    """A log that exists grows only for new sections, and a device has its own space."""
    if path.is_block_device():
        return good(f"{path} is a device")
    if os.path.lexists(path):
        return _look_at_files(path, [path])
    return _look_at_room(path, wanted, "its sections")


def _look_at_store(url: StoreUrl) -> Finding:
    return _look_at_room(directory_of(url), 0, "")


def read_only_remedy(place: Path) -> str:
    return f"look in dmesg why, then mount -o remount,rw {mounted_at(place)}"


def not_writable(path: Path) -> Finding:
    """The finding for a file that this user cannot write: its file system does not let anybody, or its owner does."""
    with trying(path, "looking at its file system"):
        is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    if is_read_only:
        return wrong(f"{path} is on a file system that is mounted read-only", read_only_remedy(path))
    return wrong(f"{path} cannot be read and written by this user", f"chown {os.geteuid()} {path}")


def _look_at_room(path: Path, wanted: int, what: str) -> Finding:
    there = nearest_existing(path)
    room = os.statvfs(there)
    free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    if not size:
        return good(f"{there}: its file system has no size, so nothing is made there")
    told = f"{there}: {free} of {size} bytes are free"
    free_space = f"free space on the file system at {mounted_at(there)}"
    if room.f_flag & os.ST_RDONLY:
        return wrong(f"{there}: its file system is mounted read-only", read_only_remedy(there))
    if room.f_files and not room.f_favail:
        return wrong(f"{there}: no inode is free", f"remove files from the file system at {mounted_at(there)}")
    if free < wanted:
        return wrong(f"{told}, and {what} need {wanted}", f"{free_space}, ask for less, or name another place")
    if not free:
        return wrong(told, free_space)
    if free < FREE_LEAST * size:
        return doubtful(told, f"{free_space} before it is full")
    return good(told)
