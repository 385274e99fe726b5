"""New sections: a section that nothing was ever written to, for a domain that is created or taken over.

A take-over may find the domain's old section on the same volume. The old one is replaced, because it is lost, damaged,
or does not belong to the store any more. But if it is sound and continues the store, it has what nobody else has. Then
it is given up only when it was named.

Invariant: a section that an epoch began in stays as it is until the domain was claimed with the new one, unless the
volume has no room for both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from jetdr_core.domain.generation import Generation
from jetdr_core.domain.known import Known
from jetdr_core.domain.meeting import log_id, meeting_point
from jetdr_core.domain.mode import D
from jetdr_core.domain.request import DomainRequest, Way
from jetdr_core.errors import ChainBroken, InvalidRequest, LogDamaged, LogFailed, LogNotALog
from jetdr_core.limits import SECTION_ALIGN_BYTES
from jetdr_core.replication_log import LogVolume, ReplicationLog, Section

__all__ = ["new_section"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _OldLog:
    """What a section holds that is to be replaced. ``problem`` says why it cannot be read, and is empty if it can.

    ``may_lead_disks``: in write-back, the disks may lack what guests were told is safe, and only the log has it.
    """

    name: str = ""
    lsn_last: int = 0
    continues_store: bool = False
    may_lead_disks: bool = False
    problem: str = ""


def new_section(request: DomainRequest[D], volume: LogVolume, known: Known) -> Section:
    """Return a section that nothing was ever written to. One that an earlier, refused attempt made is used again."""
    assert request.log_bytes is not None, "a new section has a size"
    section_bytes = -(-request.log_bytes // SECTION_ALIGN_BYTES) * SECTION_ALIGN_BYTES
    unwritten = _unwritten(request, volume, known, section_bytes)
    if unwritten is not None:
        return unwritten
    lsn_next = known.tail.lsn_last + 1
    if request.way is Way.TAKE_OVER and any(row.name == request.name for row in volume.sections):
        _give_up(request, volume, known)
        return volume.replace_section(
            request.name,
            known.domain_uuid,
            section_bytes,
            timeline=known.timeline,
            initial_lsn=lsn_next,
            time_ns=known.time_ns_last,
        )
    volume.create_section(
        request.name,
        known.domain_uuid,
        section_bytes,
        timeline=known.timeline,
        initial_lsn=lsn_next,
        time_ns=known.time_ns_last,
        clean=request.way is Way.CREATE,
    )
    return volume.open_section(request.name, known.domain_uuid)


def _unwritten(request: DomainRequest[D], volume: LogVolume, known: Known, section_bytes: int) -> Section | None:
    """Return the section of that name and size, if no epoch ever began in it."""
    new = request.way is Way.CREATE
    row = next((row for row in volume.sections if row.name == request.name), None)
    if row is None or row.section_bytes != section_bytes:
        return None
    try:
        section = volume.open_section(request.name, None if new else known.domain_uuid)
    except (LogDamaged, LogFailed, LogNotALog):
        if new:
            raise
        return None
    if section.body.epoch == 0:
        section.begin_at(known.tail.lsn_last + 1, known.time_ns_last, clean=new)
        return section
    section.close()
    return None


def _give_up(request: DomainRequest[D], volume: LogVolume, known: Known) -> None:
    """Say what is given up with the old section. :class:`InvalidRequest` if it is needed, and was not named."""
    old, stored = _look(request, volume, known), known.tail.lsn_last
    to_discard = (
        f"name the log: discard_log={old.name!r}, or 'jetdr drva CONFIG --take-over {request.name} "
        f"--discard-log {request.name}={old.name}'"
    )
    only_there = f"LSN {stored + 1} to {old.lsn_last}" if old.lsn_last > stored else "nothing"
    if old.continues_store and old.lsn_last > stored and request.discard_log != old.name:
        raise InvalidRequest(
            f"domain {request.name!r}: its log in {volume.where} is sound, continues the store, and alone has "
            f"{only_there} ({old.lsn_last - stored} LSNs)",
            hint=f"open the domain without taking it over, and they are uploaded; to give them up, {to_discard}",
            lsn_stored=stored,
            lsn_log_last=old.lsn_last,
        )
    if old.may_lead_disks and request.discard_log != old.name:
        raise InvalidRequest(
            f"domain {request.name!r}: its log in {volume.where} was in write-back and was not closed with its host "
            "component, and may alone have writes that guests were told are safe",
            hint=f"open the domain without taking it over, and they are written to the disks; to give them up, "
            f"{to_discard}",
        )
    log.warning(
        "domain %s: its old section in %s is replaced; %s",
        request.name,
        volume.where,
        old.problem or f"of what it holds, the store lacks {only_there}",
    )


def _look(request: DomainRequest[D], volume: LogVolume, known: Known) -> _OldLog:
    """Look at the old section. What another domain has under that name is :class:`LogForeign`."""
    name = request.name
    try:
        section = volume.open_section(name, known.domain_uuid)
        try:
            old = ReplicationLog(section)
            lsn_last, identity = old.outcome.head.lsn, log_id(old.body.section_id)
            pending = old.body.write_back and old.body.epoch > 0 and not old.outcome.clean
            leads = pending and not request.spares_log(known.domain_uuid, [Generation.of_log(old)])
            return _OldLog(identity, lsn_last, identity == known.owner.log and _meets(old, known, name), leads)
        finally:
            section.close()
    except (LogDamaged, LogFailed, LogNotALog) as error:
        return _OldLog(problem=f"what it holds cannot be told: {error}")


def _meets(old: ReplicationLog, known: Known, name: str) -> bool:
    try:
        meeting_point(old, known.tail.lsn_last, name)
    except ChainBroken:
        return False
    return True
