"""Opens the parts of a protected domain (store, log, disks, chain, history), and claims the domain for this process.

Invariants: what can be refused is refused before the domain is claimed; store and log must meet (the log holds every
LSN that the store does not); a new epoch stands in the chain before the log takes it on, both before any write.
"""

from __future__ import annotations

import enum
import math
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from uuid import UUID, uuid4

from jetdr_core._core import ManualClock, Ring
from jetdr_core.aio import in_thread
from jetdr_core.catalog import Catalog, ChainTail, DomainHistory
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.hosting.continuity import LogFound
from jetdr_core.domain.hosting.resumption import Resumption, RingSettings, check_mode, look
from jetdr_core.domain.primary import DiskPlace, Primary, open_primary
from jetdr_core.errors import ChainBroken, InvalidRequest, LogBusy, LogForeign, LogTooSmall
from jetdr_core.host import HostComponent, HostOptions
from jetdr_core.identity import check_name
from jetdr_core.limits import SECTION_ALIGN_BYTES, SECTION_BYTES_MIN
from jetdr_core.options import DomainOptions
from jetdr_core.record import control_records
from jetdr_core.replication_log import (
    Cursor,
    LogVolume,
    ReplicationLog,
    Section,
    format_volume,
    is_blank,
    open_volume,
)
from jetdr_core.segment import NO_PREDECESSOR
from jetdr_core.store import BandwidthLimitedStore, ObjectStore, RetryingStore, RetryPolicy, open_store
from jetdr_core.uploader import ChainEnd, ChainWriter, ClaimLost

__all__ = ["DomainRequest", "Parts", "Way", "open_parts", "replay_control"]

CLAIMS_MAX = 16
READ_BYTES = 16 << 20
TIMELINE_FIRST = 1

RETRY_WHILE_OPENING = RetryPolicy(attempts_max=6, deadline_s=30)
RETRY_WHILE_RUNNING = RetryPolicy(attempts_max=1 << 62, deadline_s=math.inf, delay_cap_s=30)
"""An unreachable store is waited for: the log holds what is not yet uploaded."""


class Way(enum.Enum):
    """The three ways in."""

    CREATE = "a new domain: an empty container, a new section of the log volume"
    REOPEN = "a known domain with its own log: goes on where the log ends"
    TAKE_OVER = "a known domain with a new log: its old one is given up, and with it what it had not uploaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRequest:
    """What the caller asked for. ``log`` and ``store`` may be open objects, which stay the caller's to close."""

    way: Way
    name: str
    log: str | PathLike[str] | BlockDevice
    log_bytes: int | None
    store: str | ObjectStore
    places: Mapping[str, DiskPlace]
    owner: UUID
    options: DomainOptions
    clock: ManualClock | None
    host: HostOptions | None

    def __post_init__(self) -> None:
        check_name("domain", self.name)
        if self.host is not None and self.clock is not None:
            raise InvalidRequest(
                f"domain {self.name!r} has a host component, which keeps its own time", hint="pass no clock"
            )
        if self.host is not None:
            HostComponent(self.name, self.host)  # refuses paths that are too long
        if self.log_bytes is not None and self.log_bytes < SECTION_BYTES_MIN:
            raise LogTooSmall(
                f"a log of {self.log_bytes} bytes is too small", hint=f"use at least {SECTION_BYTES_MIN} bytes"
            )


@dataclass(slots=True)
class Parts:
    """An opened and claimed domain; ``opened`` closes it.

    ``cursor`` is the log position behind the chain's last LSN, ``time_ns_known`` the time up to which log and store
    know everything, ``primaries`` the open disks by number. ``resumption``: with a host component, how it goes on.
    """

    store: RetryingStore
    log: ReplicationLog
    chain: ChainWriter
    history: DomainHistory
    ring: Ring
    cursor: Cursor
    time_ns_known: int
    primaries: dict[int, Primary]
    resumption: Resumption | None
    opened: AsyncExitStack

    @property
    def clean(self) -> bool:
        """Whether log and disks are as their last owner left them when he closed."""
        return self.log.outcome.clean


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store says of the domain before this process claims it."""

    domain_uuid: UUID
    timeline: int
    tail: ChainTail
    history: DomainHistory
    owner: EpochOwner
    time_ns_last: int


async def open_parts(request: DomainRequest) -> Parts:
    """Open everything, claim the domain. After an error all is closed; what was made for a new domain may stay."""
    async with AsyncExitStack() as opened:
        store = _open_store(request, opened)
        known = await _look(request, store)
        volume = await in_thread(_open_volume, request, opened)
        for _ in range(CLAIMS_MAX):
            async with AsyncExitStack() as attempt:
                log = await in_thread(_open_log, request, volume, known, attempt)
                known = replace(known, domain_uuid=log.body.domain_uuid)
                try:
                    parts = await _claim(request, store, log, known, attempt)
                except ClaimLost:
                    known = await _read_chain(store, request.name)
                    continue
                store.policy = RETRY_WHILE_RUNNING
                opened.push_async_exit(attempt.pop_all())
                parts.opened = opened.pop_all()
                return parts
        raise ChainBroken(
            f"domain {request.name!r} could not be claimed: its chain grew {CLAIMS_MAX} times meanwhile",
            hint="its present owner is writing: stop it first",
        )


async def _claim(
    request: DomainRequest, store: RetryingStore, log: ReplicationLog, known: _Known, opened: AsyncExitStack
) -> Parts:
    """See that log and store meet and the disks are there; put the next epoch into the chain, then into the log."""
    cursor = await in_thread(_meeting_point, log, known.tail.lsn_last, request.name)
    await in_thread(replay_control, log, cursor, known.history)
    primaries = await in_thread(_open_primaries, request, known.history, opened)
    time_ns_known = max(log.outcome.head.time_ns, known.time_ns_last)
    settings, found_log = _ring_settings(request, log, time_ns_known), _log_found(log)
    resumption = await in_thread(_look_for_ring, request, log, opened)
    end = ChainEnd(known.tail.number, known.tail.checksum, known.tail.epoch)
    chain = ChainWriter(store, domain=request.name, domain_uuid=known.domain_uuid, timeline=known.timeline, end=end)
    if resumption is None:
        ring = Ring(**asdict(settings), clock=request.clock)
        await chain.claim(cursor.lsn + 1, ring.observe()[1], _claimant(request, known, log.body.section_id))
        await in_thread(log.begin, chain.epoch, timeline=known.timeline)
    else:  # what the ring holds may be older than this moment
        await chain.claim(
            cursor.lsn + 1, known.time_ns_last or time.time_ns(), _claimant(request, known, log.body.section_id)
        )
        await in_thread(resumption.claimed, log, chain.epoch)
        await in_thread(log.begin, chain.epoch, timeline=known.timeline, write_back=resumption.marker is not None)
        ring = await in_thread(resumption.begin, log, settings, known.history, primaries, found_log=found_log)
    log.start(ring)
    return Parts(store, log, chain, known.history, ring, cursor, time_ns_known, primaries, resumption, opened)


def _claimant(request: DomainRequest, known: _Known, section_id: int) -> EpochOwner:
    """Who claims. The nonce distinguishes two claims that say the same at the same time."""
    is_first = known.tail.number == 0
    return EpochOwner(
        domain=request.name if is_first else None,
        domain_uuid=str(known.domain_uuid) if is_first else None,
        host=socket.gethostname(),
        log=_log_id(section_id),
        nonce=uuid4().hex,
        owner=str(request.owner),
    )


# -- store and chain ---------------------------------------------------------------------------------------------------


def _open_store(request: DomainRequest, opened: AsyncExitStack) -> RetryingStore:
    store = request.store
    if isinstance(store, str):
        store = open_store(store, create=request.way is Way.CREATE)
        opened.push_async_callback(store.close)
    rate = request.options.bandwidth_bytes_per_s
    return RetryingStore(BandwidthLimitedStore(store, rate) if rate else store, RETRY_WHILE_OPENING)


async def _look(request: DomainRequest, store: ObjectStore) -> _Known:
    if request.way is not Way.CREATE:
        return await _read_chain(store, request.name)
    async for info in store.list_prefix(""):
        raise InvalidRequest(
            f"store {store.url} is not empty (it holds {info.key!r})",
            hint=f"open the domain that is there, or give domain {request.name!r} a container of its own",
        )
    return _Known(uuid4(), TIMELINE_FIRST, ChainTail(0, NO_PREDECESSOR, 0, 0, 0), DomainHistory(), EpochOwner(), 0)


async def _read_chain(store: ObjectStore, name: str) -> _Known:
    catalog = await Catalog.open(store)
    if catalog.name != name:
        raise InvalidRequest(
            f"store {store.url} holds domain {catalog.name!r}, not {name!r}", hint="check the name and the store's URL"
        )
    if catalog.hole is not None and catalog.hole.number <= catalog.tail.number:
        raise ChainBroken(
            f"domain {name!r}: its chain cannot be continued: {catalog.hole}",
            hint="try again; if the object is damaged for good, remove it, and open again: the log holds what follows",
            number=catalog.hole.number,
        )
    return _Known(
        domain_uuid=catalog.domain_uuid,
        timeline=catalog.timeline,
        tail=catalog.tail,
        history=catalog.history,
        owner=catalog.owner,
        time_ns_last=catalog.time_last_ns,
    )


# -- log ---------------------------------------------------------------------------------------------------------------

_devices_in_use: set[int] = set()


@contextmanager
def _in_use(device: BlockDevice) -> Iterator[None]:
    """A caller's device has no lock of its own: within this process it is one volume at a time."""
    if id(device) in _devices_in_use:
        raise LogBusy("the log device is in use by a domain of this process", hint="close that domain first")
    _devices_in_use.add(id(device))
    try:
        yield
    finally:
        _devices_in_use.discard(id(device))


def _open_volume(request: DomainRequest, opened: AsyncExitStack) -> LogVolume:
    create = request.way is not Way.REOPEN
    if isinstance(request.log, str | PathLike):
        lease = open_volume(request.log, owner=request.owner, create=create)
        opened.callback(lease.close)
        return lease.volume
    opened.enter_context(_in_use(request.log))
    if create and is_blank(request.log):
        format_volume(request.log, owner=request.owner, where="log device")
    return LogVolume(request.log, owner=request.owner, where="log device")


def _open_log(request: DomainRequest, volume: LogVolume, known: _Known, opened: AsyncExitStack) -> ReplicationLog:
    log = ReplicationLog(_open_section(request, volume, known))
    opened.callback(log.close, clean=False)
    return log


def _open_section(request: DomainRequest, volume: LogVolume, known: _Known) -> Section:
    if request.way is not Way.REOPEN:
        return _new_section(request, volume, known)
    section = volume.open_section(request.name, known.domain_uuid)
    _check_last_log(section, known, request.name)
    return section


def _new_section(request: DomainRequest, volume: LogVolume, known: _Known) -> Section:
    """A section that nothing was ever written to; one that an earlier, refused attempt made is used again."""
    assert request.log_bytes is not None, "a new section has a size"
    section_bytes = -(-request.log_bytes // SECTION_ALIGN_BYTES) * SECTION_ALIGN_BYTES
    lsn_next = known.tail.lsn_last + 1
    row = next((row for row in volume.sections if row.name == request.name), None)
    if row is not None and row.section_bytes == section_bytes:
        section = volume.open_section(request.name, None if request.way is Way.CREATE else known.domain_uuid)
        if section.body.epoch == 0:
            section.begin_at(lsn_next, known.time_ns_last, clean=request.way is Way.CREATE)
            return section
        section.close()
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


def _log_id(section_id: int) -> str:
    return f"{section_id:016x}"


def _check_last_log(section: Section, known: _Known, name: str) -> None:
    """The chain's last owner must have used this very log: another log's LSNs may say something else."""
    if known.owner.log == _log_id(section.body.section_id):
        return
    section.close()
    raise LogForeign(
        f"domain {name!r}: its last owner (epoch {known.tail.epoch}, host {known.owner.host}) used another log",
        hint="use that log, or take the domain over with a new one",
        epoch=known.tail.epoch,
    )


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


def replay_control(log: ReplicationLog, cursor: Cursor, history: DomainHistory) -> Cursor:
    """Tell ``history`` what the log holds behind ``cursor``; returns the place reached."""
    while batches := log.read(cursor, payload_bytes_max=READ_BYTES):
        for batch in batches:
            for record in control_records(batch.records):
                history.apply(record)
        cursor = batches[-1].end
    return cursor


# -- ring --------------------------------------------------------------------------------------------------------------


def _ring_settings(request: DomainRequest, log: ReplicationLog, time_ns_last: int) -> RingSettings:
    options, payload_bytes = request.options, request.options.ring_bytes
    while payload_bytes < 2 * log.write_bytes_max:
        payload_bytes *= 2
    return RingSettings(
        payload_bytes=payload_bytes,
        slots=options.ring_slots,
        lsn_next=log.outcome.head.lsn + 1,
        time_ns_last=time_ns_last,
        record_bytes_max=log.write_bytes_max,
    )


def _log_found(log: ReplicationLog) -> LogFound:
    if log.outcome.clean:
        return LogFound.CLEAN
    return LogFound.UNCLEAN if log.body.epoch else LogFound.NEW


def _look_for_ring(request: DomainRequest, log: ReplicationLog, opened: AsyncExitStack) -> Resumption | None:
    if request.host is None:
        check_mode(request.name, log, write_back=False)
        return None
    resumption = look(request.name, request.host, log)
    opened.callback(resumption.close)
    return resumption


# -- disks -------------------------------------------------------------------------------------------------------------


def _open_primaries(request: DomainRequest, history: DomainHistory, opened: AsyncExitStack) -> dict[int, Primary]:
    """The domain's disks, where they were or where the caller says they are now."""
    unknown = request.places.keys() - {state.name for state in history.disks}
    if unknown:
        raise InvalidRequest(
            f"domain {request.name!r} protects no disk {', '.join(map(repr, sorted(unknown)))}",
            hint=f"it protects {', '.join(state.name for state in history.disks) or 'none'}",
        )
    primaries = {}
    for state in history.disks:
        place = request.places.get(state.name, state.path)
        shared = request.host is not None
        primaries[state.disk] = open_primary(state.name, place, size_bytes=state.size_bytes, shared=shared)
        opened.callback(primaries[state.disk].close)
    return primaries
