"""Checks of the primaries: present, of a size that a disk can have, readable and writable, and used by nobody else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from jetdr_core.domain.disk_identity import check_stamp_has_place, read_stamp
from jetdr_core.drva.config import DiskConfig, DomainConfig, DrvaConfig
from jetdr_core.drva.configured_disks import still_configured
from jetdr_core.drva.configured_domain import disk_places
from jetdr_core.drva.doctor.account import is_drva_user, is_new
from jetdr_core.drva.doctor.finding import Check, Finding, doubtful, good, unchecked, wrong
from jetdr_core.drva.doctor.in_use import device_use, holders_of
from jetdr_core.drva.doctor.room_checks import not_writable
from jetdr_core.drva.given_up_disks import GivenUpDisk, GivenUpDisks
from jetdr_core.errors import HostUnreachable
from jetdr_core.host import HostComponent
from jetdr_core.limits import DISK_BYTES_MAX, SECTOR_BYTES
from jetdr_core.ownership import link_flags
from jetdr_core.patience import PLACE_LIMIT_S, each_within

__all__ = ["disk_checks"]


def disk_checks(config: DrvaConfig) -> Iterator[Check]:
    for domain in config.domains:
        given_up = _given_up(domain)
        for disk in _where_they_are(domain):
            name = f"disk {domain.name}/{disk.name}"
            if disk.name in given_up:
                yield Check(name, partial(_look_at_given_up, domain, disk, given_up[disk.name]))
                continue
            yield Check(name, partial(_look_at_disk, config, domain, disk))
            yield Check(f"{name}: use", partial(_look_at_use, domain, disk), needs=(name,))
            yield Check(f"{name}: stamp", partial(_look_at_stamp, disk), needs=(name,))
        yield Check(f"domain {domain.name}: added disks", partial(_look_at_added, domain))


def _where_they_are(domain: DomainConfig) -> list[DiskConfig]:
    """Return the configured disks, those that were moved with a command at their new places."""
    if not _can_read(Path(domain.host.state) / domain.name):
        return list(domain.disk)
    (found,) = each_within(PLACE_LIMIT_S, disk_places, [domain])
    places = found.result() if found.done() and found.exception() is None else {}
    return [replace(disk, path=places.get(disk.name, disk.path)) for disk in domain.disk]


def _given_up(domain: DomainConfig) -> Mapping[str, GivenUpDisk]:
    """Return the disks that were given up. None if that cannot be learnt here: the DRVA tells why."""
    if not _can_read(Path(domain.host.state) / domain.name):
        return {}
    (found,) = each_within(PLACE_LIMIT_S, lambda one: GivenUpDisks(Path(one.host.state), one.name).known(), [domain])
    return found.result() if found.done() and found.exception() is None else {}


def _look_at_given_up(domain: DomainConfig, disk: DiskConfig, given_up: GivenUpDisk) -> Finding:
    return doubtful(f"given up since {given_up.since}", still_configured(domain.name, disk))


def _look_at_disk(config: DrvaConfig, domain: DomainConfig, disk: DiskConfig) -> Finding:
    path = Path(disk.path)
    link_flags(disk.path)
    try:
        status = path.stat()
    except FileNotFoundError:
        if disk.size_bytes is not None and is_new(domain):
            return good(f"{path} does not exist yet, and is made with {disk.size_bytes} bytes")
        return wrong(
            f"there is no {path}",
            f"mount its file system; if it was moved: jetdr move-disk {domain.name} {disk.name} PATH; if it is lost: "
            f"jetdr unprotect {domain.name} {disk.name}",
        )
    is_file = stat.S_ISREG(status.st_mode)
    if not is_file and not stat.S_ISBLK(status.st_mode):
        return wrong(f"{path} is neither a regular file nor a block device", "name a file or a block device")
    if is_file and (not 0 < status.st_size <= DISK_BYTES_MAX or status.st_size % SECTOR_BYTES):
        return wrong(
            f"{path} has {status.st_size} bytes", f"a disk has a multiple of {SECTOR_BYTES}, at most {DISK_BYTES_MAX}"
        )
    if not is_drva_user(config):
        return unchecked(f"{path} is there; whether the DRVA may use it", "run this as the DRVA's user")
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        return not_writable(path)
    return good(f"{path}, {status.st_size} bytes" if is_file else f"{path}, a block device")


def _look_at_use(domain: DomainConfig, disk: DiskConfig) -> Finding:
    path = Path(disk.path)
    if not path.exists():
        return good(f"{path} does not exist")
    if use := device_use(path):
        return wrong(f"{path} is in use: {use}", "end that use (lsblk, findmnt), or name another device")
    own = _host_pid(domain)
    others = [holder for holder in holders_of(path) if holder.pid != own or not own]
    if others:
        return wrong(f"{path} is in use by {others[0]}", "stop that process, or name another disk")
    return good(f"{path} is served by its host component, process {own}" if own else f"nobody has locked {path}")


def _look_at_stamp(disk: DiskConfig) -> Finding:
    if os.path.exists(disk.path) and not os.access(disk.path, os.R_OK, effective_ids=True):
        return unchecked(f"{disk.path} cannot be read", "run this as the DRVA's user")
    check_stamp_has_place(disk.path)
    generation = read_stamp(disk.path)
    return good("none" if generation is None else f"last served under generation {generation}")


def _look_at_added(domain: DomainConfig) -> Finding:
    folder = Path(domain.host.state) / domain.name
    if not _can_read(folder):
        return unchecked(f"{folder} cannot be read", "run this as the DRVA's user")
    configured = {disk.name for disk in domain.disk}
    added = {name: path for name, path in disk_places(domain).items() if name not in configured}
    missing = [f"{name} ({path})" for name, path in added.items() if not Path(path).exists()]
    if missing:
        return wrong(f"missing: {', '.join(missing)}", f"bring it back, or jetdr unprotect {domain.name} DISK")
    return good(", ".join(f"{name} at {path}" for name, path in added.items()) or "none")


def _can_read(folder: Path) -> bool:
    return not os.path.lexists(folder) or os.access(folder, os.R_OK | os.X_OK, effective_ids=True)


def _host_pid(domain: DomainConfig) -> int:
    try:
        return HostComponent(domain.name, domain.host).pid
    except (HostUnreachable, OSError):
        return 0
