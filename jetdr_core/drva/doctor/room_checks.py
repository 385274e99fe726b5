"""Checks of the room on every file system that the DRVA writes to."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from jetdr_core.device import is_iscsi
from jetdr_core.drva.config import DrvaConfig
from jetdr_core.drva.doctor.finding import Check, Finding, doubtful, good, wrong
from jetdr_core.ownership import mounted_at, nearest_existing
from jetdr_core.store.connect import directory_of
from jetdr_core.store.url import StoreUrl

__all__ = ["read_only_remedy", "room_checks"]

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
    for folder, names in _disk_folders(config).items():
        needs = tuple(f"disk {name}" for name in names)
        yield Check(f"room: disk {', '.join(names)}", partial(_look_at_room, folder, 0, ""), needs=needs)
    for domain in config.domains:
        if domain.store.startswith("file:"):
            look = partial(_look_at_store, StoreUrl.of(domain.store))
            yield Check(f"room: store of {domain.name}", look, needs=(f"domain {domain.name}: store",))


def _disk_folders(config: DrvaConfig) -> dict[Path, list[str]]:
    """The folders of the disks, with the names of the disks."""
    folders: dict[Path, list[str]] = defaultdict(list)
    for domain in config.domains:
        for disk in domain.disk:
            folders[Path(disk.path).parent].append(f"{domain.name}/{disk.name}")
    return folders


def _look_at_log(path: Path, wanted: int) -> Finding:
    """A log that exists has its space, and a device has its own."""
    if path.is_block_device():
        return good(f"{path} is a device")
    return _look_at_room(path, 0 if os.path.lexists(path) else wanted, "its sections")


def _look_at_store(url: StoreUrl) -> Finding:
    return _look_at_room(directory_of(url), 0, "")


def read_only_remedy(place: Path) -> str:
    return f"look in dmesg why, then mount -o remount,rw {mounted_at(place)}"


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
