"""Catalog: everything that a store says about its domain, opened from the store's URL alone.

Invariants: read from the store each time, so the catalog is never older than that moment and never says more than the
store does. It is frozen then. Where the chain has a break, everything ends there. Asking for points costs no request,
and resolving an instant at most one index. Advisory objects that are odd are ignored with a warning.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from jetdr_core.catalog.advisory import read_advisory
from jetdr_core.catalog.at import parse_at
from jetdr_core.catalog.chain import Chain, ChainBreak, ChainTail, read_chain
from jetdr_core.catalog.heartbeat import HEARTBEAT_BYTES, Heartbeat, decode_heartbeat
from jetdr_core.catalog.history import DomainHistory, Gap
from jetdr_core.catalog.indexes import IndexReader, OnDamage, SegmentRead
from jetdr_core.catalog.keys import chain_key, heartbeat_key
from jetdr_core.catalog.links import LinkTable, segments
from jetdr_core.catalog.point import Interval, RecoveryPoint, iso_time
from jetdr_core.catalog.record_times import RecordTimes
from jetdr_core.catalog.repository import MetadataRepository
from jetdr_core.catalog.resolve import CLOCK_AHEAD_NS_MAX, Reach, Resolver
from jetdr_core.catalog.tail_loss import TailLoss, find_tail_loss
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import ChainBroken, DamagedObject
from jetdr_core.segment import SegmentIndex
from jetdr_core.store import ObjectStore, connected

log = logging.getLogger(__name__)


class Authenticity(enum.StrEnum):
    """Whether a store's content was checked with the domain's key."""

    CHECKED = "checked"
    NOT_CHECKED = "not-checked"
    """The domain has a key, but none was given."""
    NO_KEY = "no-key"
    """The domain has none. Whoever can write to its store can change its history unnoticed."""


class Catalog:
    """Made by :meth:`open`. Used from one event loop. ``async with`` or :meth:`close` releases what it opened.

    ``chain`` is the chain as it was read: the domain's identity, its owner, its objects. ``history`` is what the
    control records say: disks, marks, gaps, configuration files.
    """

    def __init__(
        self,
        store: ObjectStore,
        chain: Chain,
        resolver: Resolver,
        indexes: IndexReader,
        latest: RecoveryPoint | None,
        opened: AsyncExitStack,
    ) -> None:
        self.store = store
        self.chain = chain
        self.history: DomainHistory = resolver.history
        self._segments = indexes.segments
        self._resolver = resolver
        self._indexes = indexes
        self._latest = latest
        self._opened = opened

    @classmethod
    async def open(
        cls,
        url_or_store: str | ObjectStore,
        *,
        cache: Path | None = None,
        settle_s: float = 0.0,
        domain_key: DomainKey | None = None,
    ) -> Catalog:
        """Read the catalog of the domain at a URL, or in an open store, which stays the caller's to close.

        ``cache`` is the file of a metadata repository. ``settle_s`` is how long to wait for a missing object that may
        be on its way, before it is called a break in the chain. Raises :class:`InvalidRequest` if no domain is there.

        With ``domain_key`` nothing is believed that was not made by an owner of the domain. An object that was not ends
        the chain (``chain_break.is_forged``). :class:`WrongKey` if the domain has another key.
        """
        async with AsyncExitStack() as opened:
            store = url_or_store
            if isinstance(store, str):
                store = await opened.enter_async_context(connected(store))
            repository = MetadataRepository(cache) if cache is not None else None
            if repository is not None:
                opened.push_async_callback(repository.close)
            whole, said = await _chain_and_beat(store, settle_s, domain_key)
            if whole.is_tagged and whole.domain_key is None:
                log.warning("no key was given: nothing that %s holds was authenticated", store.url)
            chain, history = _folded(whole)
            beat = _believed_beat(said, whole.tail, history.ahead_ns)
            loss = await find_tail_loss(store, whole, beat)
            time_last_ns = _time_last_ns(chain.tail, beat, history.ahead_ns)
            reach = Reach(chain.tail.lsn_last, time_last_ns, chain.chain_break, loss)
            indexes = IndexReader(store, chain.domain_uuid, segments(chain.links), repository, chain.domain_key)
            times = RecordTimes(indexes.segments, indexes, history.clock_turns)
            intervals = [await _certain(part, times) for part in history.intervals(reach.lsn_last, time_last_ns)]
            resolver = Resolver(store.url, history, reach, intervals, times)
            return cls(store, chain, resolver, indexes, await resolver.latest(), opened.pop_all())

    async def close(self) -> None:
        """Release the repository and the store, if this catalog opened them. Idempotent."""
        await self._opened.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def name(self) -> str:
        """The domain's name."""
        return self.chain.name

    @property
    def authenticity(self) -> Authenticity:
        """Whether what is read is known to have been made by an owner of the domain."""
        if self.chain.domain_key is not None:
            return Authenticity.CHECKED
        return Authenticity.NOT_CHECKED if self.chain.is_tagged else Authenticity.NO_KEY

    # -- what is recoverable -------------------------------------------------------------------------------------------

    @property
    def lsn_first(self) -> int:
        """The first LSN of the history, or 0 if it is empty."""
        return int(self._segments["first_lsn"][0]) if len(self._segments) else 0

    @property
    def lsn_last(self) -> int:
        """The last LSN of the history, or 0 if it is empty."""
        return self.chain.tail.lsn_last

    @property
    def time_first_ns(self) -> int:
        """When the first LSN was captured, or 0 if the history is empty."""
        return int(self._segments["first_time_ns"][0]) if len(self._segments) else 0

    @property
    def time_last_ns(self) -> int:
        """The last instant that may be asked for: the last record's time, or a later heartbeat's."""
        return self._resolver.reach.time_last_ns

    @property
    def chain_break(self) -> ChainBreak | None:
        """Where and why the chain cannot be followed, although objects come after."""
        return self.chain.chain_break

    @property
    def tail_loss(self) -> TailLoss | None:
        """What says that the store once held more than the chain does now, if anything does."""
        return self._resolver.reach.tail_loss

    @property
    def marks(self) -> Mapping[str, RecoveryPoint]:
        """Marks by name, in LSN order. A mark taken inside a gap is here, but not among :meth:`points`."""
        return self.history.marks

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return self.history.gaps

    def intervals(self) -> list[Interval]:
        """The stretches in which every LSN and every instant is a recovery point, in order."""
        return list(self._resolver.intervals)

    def points(self) -> list[RecoveryPoint]:
        """The first consistent point, the marks and the latest point, in LSN order, each once."""
        if self._latest is None:
            return []
        first, timeline = self._resolver.intervals[0], self.history.timeline
        points = {first.lsn_first: RecoveryPoint(timeline, first.lsn_first, first.time_first_ns)}
        points[self._latest.lsn] = self._latest
        points |= {mark.lsn: mark for mark in self.marks.values() if self.history.consistent_at(mark.lsn)}
        return [points[lsn] for lsn in sorted(points)]

    @property
    def latest(self) -> RecoveryPoint | None:
        """The last consistent point, or None if there is none yet."""
        return self._latest

    @property
    def why_latest_is_old(self) -> str:
        """Why the latest point lacks what guests wrote since, with since when. Empty if it lacks nothing known."""
        gap = self.history.gap_open
        if gap is None or self._latest is None:
            return ""
        reason = f" ({gap.reason})" if gap.reason else ""
        return (
            f"the latest recovery point is {self._latest}; the domain has not been consistent since "
            f"{iso_time(gap.time_open_ns)}{reason}, and what guests wrote since then is not in it; the store holds "
            f"records up to LSN {self.lsn_last} at {iso_time(self.time_last_ns)}"
        )

    async def resolve(self, at: int | str | datetime) -> RecoveryPoint:
        """The point named by an LSN, an instant (``datetime`` with zone, or ISO 8601), a mark's name or ``latest``.

        :class:`NoSuchPoint` and :class:`InstantInGap` carry the nearest points. What lies after :attr:`chain_break` is
        :class:`ChainBroken`.
        """
        return await self._resolver.resolve(parse_at(at, self.marks))

    # -- segments ------------------------------------------------------------------------------------------------------

    @property
    def segments(self) -> LinkTable:
        """One row per segment, in chain order, of dtype :data:`~jetdr_core.catalog.LINK`. Must not be changed."""
        return self._segments

    @property
    def payload_bytes(self) -> int:
        """Bytes captured."""
        return int(self._segments["payload_bytes"].sum(dtype=np.uint64))

    @property
    def stored_bytes(self) -> int:
        """Bytes that the segments take in the store."""
        return int(self._segments["object_bytes"].sum(dtype=np.uint64))

    async def index(self, number: int) -> SegmentIndex:
        """The index of a segment. :class:`DamagedObject` if it is damaged, :class:`ChainBroken` if it is gone."""
        return await self._indexes.read(number)

    def indexes_newest_first(
        self, lsn: int, *, on_damage: OnDamage | None = None
    ) -> AsyncGenerator[list[SegmentRead], None]:
        """The segments that hold data up to ``lsn``, newest first, in batches, without the entries beyond ``lsn``.

        Several are fetched ahead, in bounded memory. A damaged or missing index raises. With ``on_damage`` it is
        reported there, after everything newer was given, and left out. A caller that leaves the iterator early closes
        it (``aclose``).
        """
        return self._indexes.newest_first(lsn, on_damage)


async def _certain(interval: Interval, times: RecordTimes) -> Interval:
    """The interval without the instants at which the clock of the domain's machine may have been ahead."""
    turn = times.turn_after(interval.lsn_first)
    if turn is None:
        return interval
    try:
        until_ns = await times.certain_until_ns(turn)
    except (DamagedObject, ChainBroken) as error:
        log.warning("from when on the clock was ahead until LSN %d cannot be read: %s", turn.lsn, error)
        return interval
    return interval._replace(time_last_ns=max(interval.time_first_ns, min(until_ns, interval.time_last_ns)))


def _folded(chain: Chain) -> tuple[Chain, DomainHistory]:
    """The history that the control records tell. A record that contradicts it ends the chain before its segment."""
    history = DomainHistory(timeline=chain.timeline)
    for record in chain.control:
        try:
            history.apply(record)
        except DamagedObject as error:
            return _folded(_cut(chain, record.lsn, str(error)))
    return chain, history


def _cut(chain: Chain, lsn: int, problem: str) -> Chain:
    """The chain up to the segment that holds ``lsn``, which ``problem`` makes useless."""
    rows = segments(chain.links)
    bad = rows[int(np.searchsorted(rows["first_lsn"], lsn, "right")) - 1]
    number, lsn_first = int(bad["number"]), int(bad["first_lsn"])
    kept = chain.links[chain.links["number"] < number]
    control = [record for record in chain.control if record.lsn < lsn_first]
    tail = chain.tail._replace(lsn_last=lsn_first - 1, time_ns_last=int(segments(kept)["last_time_ns"].max(initial=0)))
    end = ChainBreak(number, chain_key(number), f"{chain_key(number)}: {problem}", chain.tail.number - number)
    log.warning("the history of domain %s ends at LSN %d: %s", chain.name, tail.lsn_last, end)
    return chain._replace(links=kept, control=control, tail=tail, chain_break=end)


async def _chain_and_beat(
    store: ObjectStore, settle_s: float, domain_key: DomainKey | None
) -> tuple[Chain, Heartbeat | None]:
    """The chain, and its heartbeat. If the heartbeat knows more, the chain was read after it."""
    chain = await read_chain(store, settle_s=settle_s, domain_key=domain_key)
    beat = await _heartbeat(store, chain)
    if beat is not None and beat.lsn > chain.tail.lsn_last:
        chain = await read_chain(store, settle_s=settle_s, domain_key=domain_key)
    return chain, beat


async def _heartbeat(store: ObjectStore, chain: Chain) -> Heartbeat | None:
    """The heartbeat of the chain's epoch as it stands there, or None if it is missing or damaged."""
    key = heartbeat_key(chain.tail.epoch)
    return await read_advisory(store, key, lambda data: decode_heartbeat(data, key, chain.domain_key), HEARTBEAT_BYTES)


def _believed_beat(said: Heartbeat | None, tail: ChainTail, ahead_ns: int) -> Heartbeat | None:
    """The heartbeat with its true time, or None if it is odd. Like records, it is ahead by ``ahead_ns``."""
    if said is None:
        return None
    beat = said._replace(time_ns=said.time_ns - ahead_ns)
    problem = _why_odd(beat, tail, ahead_ns)
    if problem:
        log.warning("%s is ignored: %s", heartbeat_key(tail.epoch), problem)
    return None if problem else beat


def _why_odd(beat: Heartbeat, tail: ChainTail, ahead_ns: int) -> str:
    now_ns = time.time_ns()
    if beat.epoch != tail.epoch:
        return f"it is of epoch {beat.epoch}"
    if beat.time_ns > max(now_ns + CLOCK_AHEAD_NS_MAX, tail.time_ns_last - ahead_ns):
        return f"it is from the future ({iso_time(beat.time_ns)}; here it is {iso_time(now_ns)})"
    return ""


def _time_last_ns(tail: ChainTail, beat: Heartbeat | None, ahead_ns: int) -> int:
    """The last instant for which the history is known to be complete. 0 for an empty one."""
    last_ns = tail.time_ns_last - ahead_ns if tail.time_ns_last else 0
    if beat is None or (beat.epoch, beat.lsn) != (tail.epoch, tail.lsn_last):
        return last_ns
    return max(beat.time_ns, last_ns)
