"""Alone: a known domain is opened while its store is away, from its log and its known file.

Guests need their disks, and the log has room for what they write. Only the store can tell whether another owner has
taken the domain over. So nothing is uploaded before the store was asked (joining.py).

Invariants: the log is the one that the known file was kept for, and of its generation. That the log begins a new
generation without a claim is noted in the known file before it does. Nothing is replayed, and nothing is called
consistent, on the word of a store that was not asked.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

from jetdr_core.aio import in_thread
from jetdr_core.catalog import DomainHistory
from jetdr_core.domain.control_log import fold_control
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.known_file import KnownKeeper
from jetdr_core.domain.known_record import KnownRecord
from jetdr_core.domain.log_section import open_log_volume
from jetdr_core.domain.mode import D
from jetdr_core.domain.parts import Away, Parts, begin_log, look, oldest_ns, primaries_of
from jetdr_core.domain.primary import are_confirmed
from jetdr_core.domain.request import DomainRequest
from jetdr_core.errors import DamagedObject, LogForeign
from jetdr_core.replication_log import LogVolume, ReplicationLog

__all__ = ["NotItsLog", "open_alone"]

log_ = logging.getLogger(__name__)


class NotItsLog(Exception):
    """The log is not the one that the known file was kept for, or an older or newer copy of it."""


async def open_alone(request: DomainRequest[D], keeper: KnownKeeper, since_ns: int, why: Exception) -> Parts[D]:
    """Open the domain without its store, which is away, or refuses, since ``since_ns`` as ``why`` says.

    Raises :class:`NotItsLog` and :class:`StoreAway` where the store is needed.
    """
    record = keeper.record
    assert record is not None, "the domain is opened from what is known"
    async with AsyncExitStack() as opened:
        volume = await in_thread(open_log_volume, request, None, opened)
        log = await in_thread(_open_known_log, request.name, volume, record, opened)
        history = await in_thread(_history, log, record)
        resumption = await in_thread(look, request, log, 0, None, opened)
        primaries = primaries_of(request, resumption)
        opened.callback(primaries.close)
        confirmed = are_confirmed(log, history.disks)
        await in_thread(primaries.open_all, history.disks, confirmed=confirmed)
        await in_thread(resumption.check, history, primaries)
        generation = record.generation_next()
        await in_thread(resumption.claiming, generation)
        own, write_back = Generation.of_log(log), resumption.write_back
        await in_thread(lambda: keeper.beginning(own, generation, write_back=write_back))
        await begin_log(log, generation, record.timeline, resumption)
        await in_thread(keeper.begun, generation)
        facts, oldest = history.facts(log.outcome.head.lsn), await in_thread(oldest_ns, log, log.tail)
        ring = await in_thread(resumption.begin_ring, history, primaries)
        log.start(ring)
        log_.warning("domain %s: opened without its store: nothing is uploaded until that is there", request.name)
        begun = record.beginning(generation, generation, write_back=write_back).begun(generation)
        away = Away(since_ns=since_ns, why=why, record=begun, facts=facts, oldest_ns=oldest)
        return Parts(away, log, history, ring, log.tail, primaries, resumption, keeper, opened.pop_all())


def _open_known_log(name: str, volume: LogVolume, record: KnownRecord, opened: AsyncExitStack) -> ReplicationLog:
    """Open the log that ``record`` was kept for, which ``opened`` closes."""
    try:
        log = ReplicationLog(volume.open_section(name, record.domain_uuid))
    except LogForeign as error:
        raise NotItsLog(str(error)) from None
    opened.callback(log.close, clean=False)
    if log.body.section_id != record.section_id or not record.fits(Generation.of_log(log)):
        raise NotItsLog(f"its log is of generation {Generation.of_log(log)}, known is {record.log}")
    return log


def _history(log: ReplicationLog, record: KnownRecord) -> DomainHistory:
    """Return the history that the domain has with everything in its log."""
    if record.lsn > log.outcome.head.lsn:
        raise NotItsLog(f"its log ends at LSN {log.outcome.head.lsn}, known is LSN {record.lsn}")
    history = record.folded_history()
    try:
        fold_control(log, log.tail, history)
    except DamagedObject as error:
        raise NotItsLog(str(error)) from None
    return history
