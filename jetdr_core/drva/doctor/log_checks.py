"""Checks of the log volumes and the sections of the domains. Only superblocks are read, so a running log is not in the
way.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from jetdr_core.device import is_iscsi
from jetdr_core.device.place import Place, exists, open_device
from jetdr_core.drva.config import DomainConfig, DrvaConfig, VolumeConfig
from jetdr_core.drva.doctor.account import is_drva_user, is_new, may_write
from jetdr_core.drva.doctor.finding import Check, Finding, NotKnown, doubtful, good, unchecked, wrong
from jetdr_core.drva.doctor.in_use import device_use, holders_of, is_running
from jetdr_core.drva.doctor.room_checks import not_writable
from jetdr_core.drva.places import log_of
from jetdr_core.errors import JetdrError, LogForeign, LogNotALog
from jetdr_core.identity import host_owner
from jetdr_core.replication_log import is_blank, look_at_volume

__all__ = ["log_checks"]


def log_checks(config: DrvaConfig) -> Iterator[Check]:
    for volume in config.volumes:
        users = [domain for domain in config.domains if domain.volume == volume]
        name, needs = f"volume {volume.name}", (f"volume {volume.name}",)
        yield Check(name, partial(_look_at_volume, config, volume, users), needs=(f"{name}: owner",))
        if not is_iscsi(volume.path):
            yield Check(f"{name}: space", partial(_look_at_space, Path(volume.path)), needs=needs)
            yield Check(f"{name}: use", partial(_look_at_use, config, Path(volume.path)), needs=needs)
    for domain in config.domains:
        needs = (f"volume {domain.volume.name}",)
        yield Check(f"domain {domain.name}: log", partial(_look_at_section, domain), needs=needs)


def _look_at_volume(config: DrvaConfig, volume: VolumeConfig, users: list[DomainConfig]) -> Finding:
    place = log_of(volume)
    may_be_made = any(domain.create and is_new(domain) for domain in users)
    if not exists(place):
        if may_be_made:
            return good(f"{volume.path} does not exist yet, and is made with the first domain that is created on it")
        return wrong(
            f"there is no {volume.path}",
            "mount its file system, or correct the path; for a new domain set create = true; if the log is lost, "
            "jetdr drva CONFIG --take-over DOMAIN",
        )
    if may_be_made and _is_blank(place):
        return good(f"{volume.path} is blank, and is used for the first domain that is created on it")
    found, device = look_at_volume(place)
    device.close()
    if not is_drva_user(config):
        return unchecked(f"{volume.path} is a log volume of owner {found.owner}", "run this as the DRVA's user")
    if found.owner != (owner := host_owner()):
        raise LogForeign(
            f"{volume.path} belongs to owner {found.owner}, and this machine is {owner}",
            hint="use another log volume; if that owner is gone for good: "
            f"jetdr take-over-volume {volume.path} --from {found.owner}",
        )
    if may_write(config, Path(volume.path)) is False and not is_iscsi(volume.path):
        return not_writable(Path(volume.path))
    names = ", ".join(section.name for section in found.sections) or "none"
    return good(f"{volume.path} is a log volume of {found.size_bytes} bytes; its sections: {names}")


def _look_at_space(path: Path) -> Finding:
    """Whether a file has all the space that its size promises. The opening allocates what is missing."""
    if not path.exists():
        return good(f"{path} does not exist yet")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return good(f"{path} is a device, which has its space")
    missing = max(0, status.st_size - 512 * status.st_blocks)
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    if missing > free:
        return wrong(
            f"{path}: {missing} of its {status.st_size} bytes have no space, and {free} are free",
            f"free {missing - free} bytes more on that file system, or copy the log to another place",
        )
    if missing:
        return doubtful(
            f"{path}: {missing} of its {status.st_size} bytes have no space yet",
            "the next opening allocates them; until then keep that room free",
        )
    return good(f"{path} has all its space")


def _look_at_use(config: DrvaConfig, path: Path) -> Finding:
    """Whether somebody else has the volume. On a block device only the kernel's claim (O_EXCL) counts."""
    if not path.exists():
        return good(f"{path} does not exist yet")
    if use := device_use(path):
        return wrong(f"{path} is in use: {use}", "end that use (lsblk, findmnt), or name another device")
    if is_running(config.runtime_dir):
        return good(f"{path} is the DRVA's, which runs")
    if holders := holders_of(path):
        return wrong(f"{path} is in use by {holders[0]}", "stop that process, or name another log volume")
    if path.is_block_device():
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
    return good(f"nobody uses {path}")


def _look_at_section(domain: DomainConfig) -> Finding:
    place = log_of(domain.volume)
    if (not exists(place) and is_new(domain)) or (domain.create and is_new(domain) and _is_blank(place)):
        return good(f"{domain.volume.path} has no section {domain.name!r} yet")
    try:
        volume, device = look_at_volume(place)
    except (JetdrError, OSError) as error:
        raise NotKnown(f"the volume cannot be read: {error}") from error
    try:
        if not any(row.name == domain.name for row in volume.sections):
            return _no_section(domain, volume.size_bytes, device.size_bytes)
        section = volume.open_section(domain.name)
        try:
            body = section.body
        finally:
            section.close()
    finally:
        device.close()
    state = "closed cleanly" if body.clean else "in use, or not closed cleanly"
    return good(f"section {domain.name!r} of {body.data_bytes} bytes, epoch {body.epoch}, {state}")


def _no_section(domain: DomainConfig, size_bytes: int, device_bytes: int) -> Finding:
    path = domain.volume.path
    told = f"{path} has no section {domain.name!r}"
    if domain.create and is_new(domain):
        return good(f"{told} yet: it has {size_bytes} bytes, {device_bytes} on the device")
    return wrong(
        told,
        f"name the domain's volume; for a new domain set create = true; if its log is lost: jetdr drva CONFIG "
        f"--take-over {domain.name}",
    )


def _is_blank(place: Place) -> bool:
    device = open_device(place, writable=False)
    try:
        return device.size_bytes == 0 or is_blank(device)
    except LogNotALog:
        return False
    finally:
        device.close()
