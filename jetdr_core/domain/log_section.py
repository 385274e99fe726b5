"""The domain's section of the log volume: found or made, and where it meets the store.

Invariants: a known domain continues with the very log of its last owner, or with a section that was never written to.
Log and store meet: the log holds every LSN that the store does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from os import PathLike

from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.continuity import LogFound
from jetdr_core.domain.known import Known
from jetdr_core.domain.mode import D
from jetdr_core.domain.request import DomainRequest, Way
from jetdr_core.errors import ChainBroken, InvalidRequest, LogBusy, LogForeign
from jetdr_core.limits import SECTION_ALIGN_BYTES
from jetdr_core.replication_log import (
    Cursor,
    LogVolume,
    ReplicationLog,
    Section,
    format_volume,
    is_blank,
    open_volume,
)

__all__ = ["check_write_mode", "log_found", "log_id", "meeting_point", "open_domain_log", "open_log_volume"]

_devices_in_use: set[int] = set()
"""A caller's device has no lock of its own: within this process it is one volume at a time."""


def open_log_volume(request: DomainRequest[D], opened: AsyncExitStack) -> LogVolume:
    """Open the log volume, which ``opened`` closes. For a new log, a missing or blank one is formatted first."""
    create = request.way is not Way.REOPEN
    if isinstance(request.settings.log, str | PathLike):
        return opened.enter_context(open_volume(request.settings.log, owner=request.settings.owner, create=create))
    opened.enter_context(_in_use(request.settings.log))
    if create and is_blank(request.settings.log):
        format_volume(request.settings.log, owner=request.settings.owner, where="log device")
    return LogVolume(request.settings.log, owner=request.settings.owner, where="log device")


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
        section = _unwritten_section(request, volume, known)
    log = ReplicationLog(section)
    opened.callback(log.close, clean=False)
    return log


def _check_last_log(section: Section, known: Known, name: str) -> None:
    """Refuse a log that the chain's last owner did not use: its LSNs may be other writes."""
    if known.owner.log == log_id(section.body.section_id):
        return
    section.close()
    raise LogForeign(
        f"domain {name!r}: its last owner (epoch {known.tail.epoch}, host {known.owner.host}) used another log",
        hint="use that log, or take the domain over with a new one",
        epoch=known.tail.epoch,
    )


def _unwritten_section(request: DomainRequest[D], volume: LogVolume, known: Known) -> Section:
    """Return a section that nothing was ever written to. One that an earlier, refused attempt made is used again."""
    assert request.log_bytes is not None, "a new section has a size"
    section_bytes = -(-request.log_bytes // SECTION_ALIGN_BYTES) * SECTION_ALIGN_BYTES
    lsn_next, new = known.tail.lsn_last + 1, request.way is Way.CREATE
    row = next((row for row in volume.sections if row.name == request.name), None)
    if row is not None and row.section_bytes == section_bytes:
        section = volume.open_section(request.name, None if new else known.domain_uuid)
        if section.body.epoch == 0:
            section.begin_at(lsn_next, known.time_ns_last, clean=new)
            return section
        section.close()
    volume.create_section(
        request.name,
        known.domain_uuid,
        section_bytes,
        timeline=known.timeline,
        initial_lsn=lsn_next,
        time_ns=known.time_ns_last,
        clean=new,
    )
    return volume.open_section(request.name, known.domain_uuid)


def log_id(section_id: int) -> str:
    """Return the name that the chain has for a log."""
    return f"{section_id:016x}"


def meeting_point(log: ReplicationLog, lsn_stored: int, name: str) -> Cursor:
    """Return the log position right after the last LSN of the store. :class:`ChainBroken` if there is none."""
    cursor = log.tail
    if cursor.lsn > lsn_stored:
        raise ChainBroken(
            f"domain {name!r}: the store ends at LSN {lsn_stored}, its log begins at LSN {cursor.lsn + 1}",
            hint="objects are missing from the store: run 'jetdr verify', or take the domain over with a new log",
            lsn_stored=lsn_stored,
            lsn_log_first=cursor.lsn + 1,
        )
    while cursor.lsn < lsn_stored:
        batches = log.read(cursor, payload_bytes_max=1)
        if not batches or batches[0].end.lsn > lsn_stored:
            raise ChainBroken(
                f"domain {name!r}: the store ends at LSN {lsn_stored}, its log at LSN {log.outcome.head.lsn}",
                hint="this log is an older copy: use the one last in use, or take the domain over with a new log",
                lsn_stored=lsn_stored,
                lsn_log_last=log.outcome.head.lsn,
            )
        cursor = batches[0].end
    return cursor


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
