"""Opens the parts of a protected domain (store, log, chain, history), and claims the domain for this process.

Invariants: what can be refused is refused before anything is changed; store and log must meet (the log holds every LSN
that the store does not); a new epoch stands in the chain before the log takes it on, in both before the first write.
Talks to: catalog, replication_log, store, uploader (the chain).
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from os import PathLike
from uuid import UUID, uuid4

from jetdr_core._core import ManualClock, Ring
from jetdr_core.catalog import Catalog, ChainTail, DomainHistory
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.errors import ChainBroken, InvalidRequest, LogForeign, LogTooSmall
from jetdr_core.identity import check_name
from jetdr_core.limits import SECTION_BYTES_MIN
from jetdr_core.options import DomainOptions
from jetdr_core.record import control_records
from jetdr_core.replication_log import Cursor, LogVolume, ReplicationLog, Section, format_volume, open_volume
from jetdr_core.segment import NO_PREDECESSOR
from jetdr_core.store import BandwidthLimitedStore, ObjectStore, RetryingStore, RetryPolicy, open_store
from jetdr_core.uploader import ChainEnd, ChainWriter, ClaimLost

__all__ = ["Parts", "Request", "create_parts", "reopen_parts", "take_over_parts"]

CLAIMS_MAX = 16
READ_BYTES = 16 << 20
TIMELINE_FIRST = 1

RETRY_WHILE_OPENING = RetryPolicy(attempts_max=6, deadline_s=30)
RETRY_WHILE_RUNNING = RetryPolicy(attempts_max=1 << 62, deadline_s=math.inf, delay_cap_s=30)
"""An unreachable store is waited for: the log holds what is not yet uploaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the caller asked for. ``log`` and ``store`` may be open objects, which stay the caller's to close."""

    name: str
    log: str | PathLike[str] | BlockDevice
    log_bytes: int | None
    store: str | ObjectStore
    owner: UUID
    options: DomainOptions
    clock: ManualClock | None

    def __post_init__(self) -> None:
        check_name("domain", self.name)
        if self.log_bytes is not None and self.log_bytes < SECTION_BYTES_MIN:
            raise LogTooSmall(
                f"a log of {self.log_bytes} bytes is too small", hint=f"use at least {SECTION_BYTES_MIN} bytes"
            )


@dataclass(slots=True)
class Parts:
    """An opened and claimed domain. ``cursor`` is the log position behind the chain's last LSN; ``opened`` closes."""

    store: RetryingStore
    log: ReplicationLog
    chain: ChainWriter
    history: DomainHistory
    ring: Ring
    cursor: Cursor
    clean: bool
    opened: AsyncExitStack


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store says of the domain before this process claims it."""

    domain_uuid: UUID
    timeline: int
    tail: ChainTail
    history: DomainHistory
    owner: Mapping[str, object]
    time_ns_last: int


# -- the three ways in -------------------------------------------------------------------------------------------------


async def create_parts(request: Request) -> Parts:
    """A new domain: an empty container, a new section of the log volume."""
    async with AsyncExitStack() as stack:
        store = _open_store(request, stack, create=True)
        async for info in store.list_prefix(""):
            raise InvalidRequest(
                f"store {store.url} is not empty (it holds {info.key!r})",
                hint=f"open the domain that is there, or give domain {request.name!r} a container of its own",
            )
        known = _Known(uuid4(), TIMELINE_FIRST, ChainTail(0, NO_PREDECESSOR, 0, 0, 0), DomainHistory(), {}, 0)
        volume = await asyncio.to_thread(_open_volume, request, stack, create=True)
        section = await asyncio.to_thread(_new_section, volume, request, known)
        known = replace(known, domain_uuid=section.row.domain_uuid)
        return await _claim(request, stack, store, section, known)


async def reopen_parts(request: Request) -> Parts:
    """A known domain with its own log: goes on where the log ends."""
    async with AsyncExitStack() as stack:
        store = _open_store(request, stack, create=False)
        known = await _read_chain(store, request.name)
        volume = await asyncio.to_thread(_open_volume, request, stack, create=False)
        section = await asyncio.to_thread(volume.open_section, request.name, known.domain_uuid)
        _check_last_log(section, known, request.name)
        return await _claim(request, stack, store, section, known)


async def take_over_parts(request: Request) -> Parts:
    """A known domain with a new, empty log: its old log is given up, and with it what it had not uploaded."""
    async with AsyncExitStack() as stack:
        store = _open_store(request, stack, create=False)
        known = await _read_chain(store, request.name)
        volume = await asyncio.to_thread(_open_volume, request, stack, create=True)
        section = await asyncio.to_thread(_new_section, volume, request, known)
        parts = await _claim(request, stack, store, section, known)
        parts.clean = False  # the primaries may hold what no log knows
        return parts


# -- store and chain ---------------------------------------------------------------------------------------------------


def _open_store(request: Request, stack: AsyncExitStack, *, create: bool) -> RetryingStore:
    store = request.store
    if isinstance(store, str):
        store = open_store(store, create=create)
        stack.push_async_callback(store.close)
    rate = request.options.bandwidth_bytes_per_s
    return RetryingStore(BandwidthLimitedStore(store, rate) if rate else store, RETRY_WHILE_OPENING)


async def _read_chain(store: ObjectStore, name: str) -> _Known:
    catalog = await Catalog.open(store)
    if catalog.name != name:
        raise InvalidRequest(
            f"store {store.url} holds domain {catalog.name!r}, not {name!r}", hint="check the name and the store's URL"
        )
    return _Known(
        catalog.domain_uuid, catalog.timeline, catalog.tail, catalog.history, catalog.owner, catalog.time_last_ns
    )


async def _claim(
    request: Request, stack: AsyncExitStack, store: RetryingStore, section: Section, known: _Known
) -> Parts:
    """Recover the log, see that it meets the store, put the next epoch into the chain, then into the log."""
    log = await asyncio.to_thread(ReplicationLog, section)
    stack.callback(log.close, clean=False)
    ring_time_ns = max(log.outcome.head.time_ns, known.time_ns_last)
    for _ in range(CLAIMS_MAX):
        cursor = await asyncio.to_thread(_meeting_point, log, known.tail.lsn_last, request.name)
        ring = _new_ring(request, log, ring_time_ns)
        chain = _chain_writer(store, request.name, known)
        try:
            await chain.claim(cursor.lsn + 1, ring.observe()[1], _epoch_body(request, known, section.body.section_id))
        except ClaimLost:
            known = await _read_chain(store, request.name)
            continue
        await asyncio.to_thread(_replay_control, log, cursor, known.history)
        await asyncio.to_thread(log.begin, chain.epoch, timeline=known.timeline)
        log.start(ring)
        store.policy = RETRY_WHILE_RUNNING
        return Parts(store, log, chain, known.history, ring, cursor, log.outcome.clean, stack.pop_all())
    raise ChainBroken(
        f"domain {request.name!r} could not be claimed: its chain grew {CLAIMS_MAX} times meanwhile",
        hint="its present owner is writing: stop it first",
    )


def _chain_writer(store: ObjectStore, name: str, known: _Known) -> ChainWriter:
    end = ChainEnd(known.tail.number, known.tail.checksum, known.tail.epoch)
    return ChainWriter(store, domain=name, domain_uuid=known.domain_uuid, timeline=known.timeline, end=end)


def _epoch_body(request: Request, known: _Known, section_id: int) -> dict[str, object]:
    body: dict[str, object] = {"owner": str(request.owner), "host": socket.gethostname(), "log": _log_id(section_id)}
    if known.tail.number == 0:
        body |= {"domain": request.name, "domain_uuid": str(known.domain_uuid)}
    return body


def _log_id(section_id: int) -> str:
    return f"{section_id:016x}"


def _check_last_log(section: Section, known: _Known, name: str) -> None:
    """The chain's last owner must have used this very log: another log's LSNs may say something else."""
    if known.owner.get("log") == _log_id(section.body.section_id):
        return
    section.close()
    raise LogForeign(
        f"domain {name!r}: its last owner (epoch {known.tail.epoch}, host {known.owner.get('host')}) used another log",
        hint="use that log, or take the domain over with a new one",
        epoch=known.tail.epoch,
    )


# -- log ---------------------------------------------------------------------------------------------------------------


def _open_volume(request: Request, stack: AsyncExitStack, *, create: bool) -> LogVolume:
    if isinstance(request.log, str | PathLike):
        lease = open_volume(request.log, owner=request.owner, create=create)
        stack.callback(lease.close)
        return lease.volume
    if create:
        format_volume(request.log, owner=request.owner, where="log device")
    return LogVolume(request.log, owner=request.owner, where="log device")


def _new_section(volume: LogVolume, request: Request, known: _Known) -> Section:
    """A section that nothing was ever written to; one that an earlier, refused attempt made is used again."""
    if any(row.name == request.name for row in volume.sections):
        section = volume.open_section(request.name)
        if section.body.epoch == 0 and section.body.initial_lsn == known.tail.lsn_last + 1:
            return section
        section.close()
    assert request.log_bytes is not None, "a new section has a size"
    volume.create_section(
        request.name,
        known.domain_uuid,
        request.log_bytes,
        timeline=known.timeline,
        initial_lsn=known.tail.lsn_last + 1,
        time_ns=known.time_ns_last,
    )
    return volume.open_section(request.name, known.domain_uuid)


def _meeting_point(log: ReplicationLog, lsn_stored: int, name: str) -> Cursor:
    """The log position right behind the last LSN of the store."""
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


def _replay_control(log: ReplicationLog, cursor: Cursor, history: DomainHistory) -> None:
    """Tell ``history`` what the log knows and the store does not."""
    while batches := log.read(cursor, payload_bytes_max=READ_BYTES):
        for batch in batches:
            for record in control_records(batch.records):
                history.apply(record)
        cursor = batches[-1].end


def _new_ring(request: Request, log: ReplicationLog, time_ns_last: int) -> Ring:
    options, payload_bytes = request.options, request.options.ring_bytes
    while payload_bytes < 2 * log.write_bytes_max:
        payload_bytes *= 2
    return Ring(
        payload_bytes=payload_bytes,
        slots=options.ring_slots,
        lsn_next=log.outcome.head.lsn + 1,
        time_ns_last=time_ns_last,
        clock=request.clock,
    )
