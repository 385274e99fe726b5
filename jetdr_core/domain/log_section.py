"""The domain's section of the log volume: found or made, and where it meets the store.

Invariants: a known domain continues with the very log of its last owner, or with a section that was never written to.
Log and store meet: the log holds every LSN that the store does not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from os import PathLike, fspath
from uuid import UUID

from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.continuity import LogFound
from jetdr_core.domain.known import Known
from jetdr_core.domain.meeting import log_id
from jetdr_core.domain.mode import D
from jetdr_core.domain.new_section import new_section
from jetdr_core.domain.request import DomainRequest, Way
from jetdr_core.errors import InvalidRequest, LogBusy, LogForeign, LogMissing, LogNotALog
from jetdr_core.identity import host_owner
from jetdr_core.remedies import NEW_LOG
from jetdr_core.replication_log import (
    LogVolume,
    ReplicationLog,
    Section,
    format_volume,
    is_blank,
    open_volume,
    volume_on,
)

__all__ = ["check_write_mode", "domain_in_log", "log_found", "open_domain_log", "open_log_volume"]

log_ = logging.getLogger(__name__)

_devices_in_use: set[int] = set()
"""A caller's device has no lock of its own: within this process it is one volume at a time."""


def open_log_volume(request: DomainRequest[D], known: Known | None, opened: AsyncExitStack) -> LogVolume:
    """Open the log volume, which ``opened`` closes. For a new log, a missing or blank one is formatted first.

    For a take-over, a volume that lost its superblock gets a new one, if it has a section of the domain. ``known`` is
    None while the store is away.
    """
    log, owner, create = request.settings.log, request.settings.owner, request.way is not Way.REOPEN
    salvage_for = known.domain_uuid if known is not None and request.way is Way.TAKE_OVER else None
    if isinstance(log, str | PathLike):
        try:
            return opened.enter_context(open_volume(log, owner=owner, create=create, salvage_for=salvage_for))
        except FileNotFoundError as error:
            if create:
                raise
            raise LogMissing(
                f"log volume {fspath(log)} does not exist",
                hint=f"mount its file system, or correct its path; if it is lost, {NEW_LOG}",
                errno=error.errno,
            ) from error
    opened.enter_context(_in_use(log))
    if create and is_blank(log):
        format_volume(log, owner=owner, where="log device")
    return volume_on(log, owner, "log device", salvage_for)


@contextmanager
def _in_use(device: BlockDevice) -> Iterator[None]:
    if id(device) in _devices_in_use:
        raise LogBusy("the log device is in use by a domain of this process", hint="close that domain first")
    _devices_in_use.add(id(device))
    try:
        yield
    finally:
        _devices_in_use.discard(id(device))


def open_domain_log(
    request: DomainRequest[D], volume: LogVolume, known: Known, opened: AsyncExitStack
) -> ReplicationLog:
    """Open the domain's log, which ``opened`` closes: the one its last owner used, or a new one."""
    if request.way is Way.REOPEN:
        section = volume.open_section(request.name, known.domain_uuid)
        _check_last_log(section, known, request.name)
    else:
        section = new_section(request, volume, known)
    log = ReplicationLog(section)
    opened.callback(log.close, clean=False)
    if log.cut_short:
        log_.warning("domain %s: %s", request.name, log.cut_short, extra={"domain": request.name})
    return log


def _check_last_log(section: Section, known: Known, name: str) -> None:
    """Refuse a log that the chain's last owner did not use: its LSNs may be other writes."""
    if known.owner.log == log_id(section.body.section_id):
        return
    section.close()
    raise LogForeign(
        f"domain {name!r}: its last owner (epoch {known.tail.epoch}, host {known.owner.host}) used another log",
        hint=f"use that log, or {NEW_LOG}",
        epoch=known.tail.epoch,
    )


def domain_in_log(log: str | PathLike[str], name: str) -> UUID | None:
    """Return which domain ``name`` used the log volume, by its section. None for an unused one, or without a volume."""
    try:
        with open_volume(log, owner=host_owner()) as volume:
            row = next((row for row in volume.sections if row.name == name), None)
            if row is None:
                return None
            section = volume.open_section(name, None)
            section.close()
            return row.domain_uuid if section.body.epoch > 0 else None
    except (FileNotFoundError, LogNotALog):
        return None


def log_found(log: ReplicationLog) -> LogFound:
    """Return how the last owner left the log. Before the log begins anew."""
    if log.outcome.clean:
        return LogFound.CLEAN
    return LogFound.UNCLEAN if log.body.epoch else LogFound.NEW


def check_write_mode(name: str, log: ReplicationLog, *, write_back: bool) -> None:
    """Refuse to change between write-through and write-back, unless nothing is pending."""
    if log.body.epoch == 0 or log.outcome.clean or log.body.write_back == write_back:
        return
    was = write_mode(write_back=log.body.write_back)
    raise InvalidRequest(
        f"domain {name!r} ran in {was} mode, and was not closed with its host component",
        hint=f"open it in {was} mode, stop it together with its host component (hosts_on_stop = 'stop'), then "
        f"open it in the other",
    )


def write_mode(*, write_back: bool) -> str:
    return "write-back" if write_back else "write-through"
