"""Catalog: everything a store says about its domain, opened from the URL alone, frozen at that moment.

Invariants: rebuilt from the store every time, so nothing here can be stale or wrong without the store being so; the
chain counts up to its :attr:`Catalog.hole`, if it has one. Asking for points costs memory only; an instant costs one
segment's index at most.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

import numpy as np

from jetdr_core.catalog.at import parse_at
from jetdr_core.catalog.chain import Chain, ChainTail, Hole, read_chain, write_summaries
from jetdr_core.catalog.heartbeat import decode_heartbeat
from jetdr_core.catalog.history import DiskState, DomainHistory, Gap
from jetdr_core.catalog.indexes import IndexReader, OnDamage, SegmentRead
from jetdr_core.catalog.keys import chain_key, heartbeat_key
from jetdr_core.catalog.links import LinkTable, segments
from jetdr_core.catalog.point import Interval, RecoveryPoint
from jetdr_core.catalog.repository import MetadataRepository
from jetdr_core.catalog.resolve import Extent, Resolver
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.errors import ChainBroken, DamagedObject, NoSuchPoint, ObjectNotFound, UnsupportedVersion
from jetdr_core.segment import SegmentIndex
from jetdr_core.store import ObjectStore, connected

log = logging.getLogger(__name__)


class Catalog:
    """Made by :meth:`open`. Used from one event loop. ``async with`` or :meth:`close` releases what it opened."""

    def __init__(
        self,
        store: ObjectStore,
        chain: Chain,
        history: DomainHistory,
        time_last_ns: int,
        repository: MetadataRepository | None,
        opened: AsyncExitStack,
    ) -> None:
        self.store = store
        self.history = history
        self.time_last_ns = time_last_ns
        """Instants up to this one may be asked for: the last record's time, or a later heartbeat's."""
        self._chain = chain
        self._opened = opened
        self._segments = segments(chain.links)
        self._indexes = IndexReader(store, chain.domain_uuid, self._segments, repository)
        self._intervals = history.intervals(chain.tail.lsn_last, time_last_ns)
        self._latest: RecoveryPoint | None = None
        self._resolver = Resolver(
            url=store.url,
            history=history,
            extent=Extent(chain.tail.lsn_last, time_last_ns, chain.hole),
            intervals=self._intervals,
            lsn_at=self._lsn_at,
            time_of=self._time_of,
        )

    @classmethod
    async def open(cls, url_or_store: str | ObjectStore, *, cache: Path | None = None) -> Catalog:
        """Read the catalog of the domain that lives at a URL (or in an open store, which stays the caller's to close).

        ``cache`` is the metadata repository's file. :class:`InvalidRequest` when no domain is there.
        """
        async with AsyncExitStack() as opened:
            store = url_or_store
            if isinstance(store, str):
                store = await opened.enter_async_context(connected(store))
            repository = MetadataRepository(cache) if cache is not None else None
            if repository is not None:
                opened.push_async_callback(repository.close)
            chain, history = _folded(await read_chain(store))
            time_last_ns = await _time_last_ns(store, chain.tail)
            catalog = cls(store, chain, history, time_last_ns, repository, opened)
            catalog._latest = await catalog._find_latest()
            catalog._opened = opened.pop_all()
            return catalog

    async def close(self) -> None:
        """Release repository and store, if this catalog opened them; twice is harmless."""
        await self._opened.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- the domain ----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def domain_uuid(self) -> UUID:
        return self._chain.domain_uuid

    @property
    def name(self) -> str:
        """The domain's name."""
        return self._chain.name

    @property
    def timeline(self) -> int:
        return self._chain.timeline

    @property
    def epoch(self) -> int:
        """The ownership generation that wrote the newest chained object."""
        return self._chain.tail.epoch

    @property
    def owner(self) -> EpochOwner:
        """Who began that epoch; without any field when its object cannot be read."""
        return self._chain.owner

    @property
    def tail(self) -> ChainTail:
        """What a new owner continues."""
        return self._chain.tail

    @property
    def hole(self) -> Hole | None:
        """Where and why the chain cannot be followed, though there are objects behind."""
        return self._chain.hole

    # -- what is recoverable -------------------------------------------------------------------------------------------

    @property
    def lsn_first(self) -> int:
        """The first LSN of the history; 0 when it is empty."""
        return int(self._segments["first_lsn"][0]) if len(self._segments) else 0

    @property
    def lsn_last(self) -> int:
        """The last LSN of the history; 0 when it is empty."""
        return self._chain.tail.lsn_last

    @property
    def time_first_ns(self) -> int:
        return int(self._segments["first_time_ns"][0]) if len(self._segments) else 0

    @property
    def consistent(self) -> bool:
        """Whether the domain is consistent at :attr:`lsn_last`."""
        return self.history.consistent

    @property
    def marks(self) -> Mapping[str, RecoveryPoint]:
        """By name, in LSN order. One taken inside a gap is here, but not among :meth:`points`."""
        return self.history.marks

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return self.history.gaps

    def intervals(self) -> list[Interval]:
        """The stretches in which every LSN and every instant is a recovery point, in order."""
        return list(self._intervals)

    def points(self) -> list[RecoveryPoint]:
        """The first consistent point, the marks and the latest point, in LSN order, each once."""
        if self._latest is None:
            return []
        first = self._intervals[0]
        points = {first.lsn_first: RecoveryPoint(self.timeline, first.lsn_first, first.time_first_ns)}
        points[self._latest.lsn] = self._latest
        points |= {mark.lsn: mark for mark in self.marks.values() if self.history.consistent_at(mark.lsn)}
        return [points[lsn] for lsn in sorted(points)]

    async def resolve(self, at: int | str | datetime) -> RecoveryPoint:
        """The point that an LSN, an instant (``datetime`` with zone, or ISO 8601), a mark's name or ``latest`` means.

        :class:`NoSuchPoint` / :class:`InstantInGap` carry the nearest points; :class:`ChainBroken` behind :attr:`hole`.
        """
        return await self._resolver.resolve(parse_at(at, self.marks))

    def disks_at(self, lsn: int) -> tuple[DiskState, ...]:
        """The disks of the point at ``lsn``, with the sizes they had."""
        return self.history.disks_at(lsn)

    def configs_at(self, lsn: int) -> dict[str, str]:
        """The domain's configuration files at ``lsn``: text by name."""
        return self.history.configs_at(lsn)

    # -- segments ------------------------------------------------------------------------------------------------------

    @property
    def segments(self) -> LinkTable:
        """One row a segment, in chain order; dtype :data:`~jetdr_core.catalog.LINK`. Not to be changed."""
        return self._segments

    @property
    def links(self) -> LinkTable:
        """One row for every object of the chain, epochs and orphans (kind 0) included."""
        return self._chain.links

    @property
    def payload_bytes(self) -> int:
        """Bytes captured."""
        return int(self._segments["payload_bytes"].sum(dtype=np.uint64))

    @property
    def stored_bytes(self) -> int:
        """Bytes of the segments in the store."""
        return int(self._segments["object_bytes"].sum(dtype=np.uint64))

    def key(self, number: int) -> str:
        """The key of a chain object."""
        return chain_key(number)

    async def index(self, number: int) -> SegmentIndex:
        """The index of a segment: :class:`DamagedObject` if it is damaged, :class:`ChainBroken` if it is gone."""
        return await self._indexes.read(number)

    def indexes_newest_first(self, lsn: int, *, on_damage: OnDamage | None = None) -> AsyncGenerator[SegmentRead, None]:
        """The segments that hold data up to ``lsn``, newest first; entries beyond ``lsn`` are left out.

        Several are fetched ahead, in bounded memory. A damaged or missing index raises, or, with ``on_damage``, is told
        and passed over. Close the iterator (``aclose``) when you leave it early.
        """
        return self._indexes.newest_first(lsn, on_damage)

    async def write_summaries(self) -> list[int]:
        """Write the summaries that are missing or wrong, of complete groups; returns the groups."""
        return await write_summaries(self.store, self._chain)

    # -- times ---------------------------------------------------------------------------------------------------------

    async def _find_latest(self) -> RecoveryPoint | None:
        try:
            return await self._resolver.latest()
        except NoSuchPoint:
            return None

    async def _time_of(self, lsn: int) -> int:
        row = self._segments[int(np.searchsorted(self._segments["first_lsn"], lsn, "right")) - 1]
        for known, time_ns in (("first_lsn", "first_time_ns"), ("last_lsn", "last_time_ns")):
            if int(row[known]) == lsn:
                return int(row[time_ns])
        try:
            lsns, times = await self._record_times(row)
        except (DamagedObject, ChainBroken) as error:
            log.warning("the time of LSN %d is taken from its segment's first record: %s", lsn, error)
            return int(row["first_time_ns"])
        return int(times[int(np.searchsorted(lsns, lsn))])

    async def _lsn_at(self, time_ns: int) -> int:
        """The last LSN captured at or before ``time_ns``, which is not before the first."""
        row = self._segments[int(np.searchsorted(self._segments["first_time_ns"], time_ns, "right")) - 1]
        if int(row["last_time_ns"]) <= time_ns:
            return int(row["last_lsn"])
        lsns, times = await self._record_times(row)
        return int(lsns[int(np.searchsorted(times, time_ns, "right")) - 1])

    async def _record_times(self, row: np.void) -> tuple[np.ndarray, np.ndarray]:
        """LSN and time of every record of a segment, in order."""
        index = await self.index(int(row["number"]))
        lsns = np.concatenate([index.entries["lsn"], np.array([record.lsn for record in index.control], np.uint64)])
        times = np.concatenate(
            [index.entries["time_ns"], np.array([record.time_ns for record in index.control], np.int64)]
        )
        order = np.argsort(lsns, kind="stable")
        return lsns[order], times[order]


def _folded(chain: Chain) -> tuple[Chain, DomainHistory]:
    """The history that the control records tell. One that contradicts it ends the chain before its segment."""
    history = DomainHistory(timeline=chain.timeline)
    for record in chain.control:
        try:
            history.apply(record)
        except DamagedObject as error:
            return _cut(chain, record.lsn, str(error))
    return chain, history


def _cut(chain: Chain, lsn: int, problem: str) -> tuple[Chain, DomainHistory]:
    rows = segments(chain.links)
    bad = rows[int(np.searchsorted(rows["first_lsn"], lsn, "right")) - 1]
    number, lsn_first = int(bad["number"]), int(bad["first_lsn"])
    kept = chain.links[chain.links["number"] < number]
    control = [record for record in chain.control if record.lsn < lsn_first]
    tail = chain.tail._replace(lsn_last=lsn_first - 1, time_ns_last=int(segments(kept)["last_time_ns"].max(initial=0)))
    hole = Hole(number, chain_key(number), f"{chain_key(number)}: {problem}", chain.tail.number - number)
    log.warning("the history of domain %s ends at LSN %d: %s", chain.name, tail.lsn_last, hole)
    return _folded(chain._replace(links=kept, control=control, tail=tail, hole=hole))


async def _time_last_ns(store: ObjectStore, tail: ChainTail) -> int:
    """The time up to which the history is known to be complete."""
    key = heartbeat_key(tail.epoch)
    try:
        beat = decode_heartbeat(await store.get(key), key)
    except ObjectNotFound:
        return tail.time_ns_last
    except (DamagedObject, UnsupportedVersion) as error:
        log.warning("the heartbeat is left out: %s", error)
        return tail.time_ns_last
    if beat.epoch != tail.epoch or beat.lsn != tail.lsn_last:
        return tail.time_ns_last
    return max(beat.time_ns, tail.time_ns_last)
