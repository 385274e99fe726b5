"""What a caller asked for, found in the history, or refused with the nearest points on both sides.

Invariants: a point is consistent and lies before the chain's hole; an instant resolves to the last LSN captured at or
before it. At most one segment's index is read.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from jetdr_core.catalog.at import AtLsn, AtName, AtTime
from jetdr_core.catalog.chain import Hole
from jetdr_core.catalog.history import DomainHistory, Gap
from jetdr_core.catalog.point import Interval, RecoveryPoint, iso_time
from jetdr_core.errors import ChainBroken, InstantInGap, NoSuchPoint


class Extent(NamedTuple):
    """How far the history reaches: the last LSN of the chain, the time up to which it is known, and what ends it."""

    lsn_last: int
    time_last_ns: int
    hole: Hole | None


class Resolver(NamedTuple):
    """The questions, over one history. ``lsn_at`` and ``time_of`` look into the segments."""

    url: str
    history: DomainHistory
    extent: Extent
    intervals: Sequence[Interval]
    lsn_at: Callable[[int], Awaitable[int]]
    """The last LSN captured at or before a time within the history."""
    time_of: Callable[[int], Awaitable[int]]
    """When an LSN within the history was captured."""

    async def resolve(self, at: AtLsn | AtTime | AtName) -> RecoveryPoint:
        """The point, or :class:`NoSuchPoint`, :class:`InstantInGap`, :class:`ChainBroken` behind a hole."""
        if isinstance(at, AtName):
            return await self._named(at.name)
        if isinstance(at, AtTime):
            return await self._instant(at.time_ns)
        return await self._lsn(at.lsn)

    async def latest(self) -> RecoveryPoint:
        """The last consistent point."""
        if not self.intervals:
            raise NoSuchPoint(
                f"{self.url} offers no recovery point yet: {self.history.why_inconsistent or 'nothing was captured'}",
                hint="wait until the first copy of its disks is complete",
            )
        return await self._point(self.intervals[-1].lsn_last)

    async def _lsn(self, lsn: int) -> RecoveryPoint:
        if lsn > self.extent.lsn_last:
            raise await self._beyond(f"LSN {lsn}")
        return await self._checked(lsn, f"LSN {lsn}")

    async def _instant(self, time_ns: int) -> RecoveryPoint:
        wanted = iso_time(time_ns)
        if time_ns > self.extent.time_last_ns:
            raise await self._beyond(wanted)
        if not self.intervals or time_ns < self.intervals[0].time_first_ns:
            raise await self._refusal(NoSuchPoint, 0, f"{wanted} lies before the first recovery point")
        lsn = await self.lsn_at(time_ns)
        gap = self.history.gap_at_time(time_ns)
        if gap is not None and self.history.consistent_at(lsn):
            raise await self._refusal(InstantInGap, gap.lsn_open, _in_gap(wanted, gap))
        return await self._checked(lsn, wanted)

    async def _named(self, name: str) -> RecoveryPoint:
        if name == "latest":
            return await self.latest()
        mark = self.history.marks.get(name)
        if mark is None:
            hole = self.extent.hole
            where = f" up to LSN {self.extent.lsn_last}, where its chain ends: {hole}" if hole else ""
            raise NoSuchPoint(f"{self.url} has no mark {name!r}{where}", hint=_similar(name, self.history.marks))
        await self._checked(mark.lsn, f"mark {name!r} (LSN {mark.lsn})")
        return mark

    async def _checked(self, lsn: int, wanted: str) -> RecoveryPoint:
        if self.history.consistent_at(lsn):
            return await self._point(lsn)
        if not self.intervals or lsn < self.intervals[0].lsn_first:
            raise await self._refusal(NoSuchPoint, lsn, f"{wanted} lies before the first recovery point")
        raise await self._refusal(InstantInGap, lsn, _in_gap(wanted, self.history.gap_at(lsn)))

    async def _beyond(self, wanted: str) -> Exception:
        """The refusal of what lies behind the last LSN or the last known time."""
        extent = self.extent
        if extent.hole is None:
            known = f"the last known is LSN {extent.lsn_last} at {iso_time(extent.time_last_ns)}"
            return await self._refusal(
                NoSuchPoint, extent.lsn_last + 1, f"{wanted} lies after the last recovery point: {known}"
            )
        return ChainBroken(
            f"{wanted} lies behind a hole in the chain: {extent.hole}",
            hint=f"LSN {extent.lsn_last} is the last that can be recovered",
            number=extent.hole.number,
            key=extent.hole.key,
            lsn_last=extent.lsn_last,
        )

    async def _refusal(self, error: type[NoSuchPoint], lsn: int, message: str) -> NoSuchPoint:
        """The error with the nearest points around ``lsn``."""
        last = bisect_left(self.intervals, lsn, key=lambda interval: interval.lsn_last) - 1
        first = bisect_right(self.intervals, lsn, key=lambda interval: interval.lsn_first)
        before = await self._point(self.intervals[last].lsn_last) if last >= 0 else None
        after = await self._point(self.intervals[first].lsn_first) if first < len(self.intervals) else None
        near = [f"{side} it: {point}" for side, point in (("before", before), ("after", after)) if point]
        return error(
            f"{self.url}: {message}",
            hint="; ".join(near) or "there is no recovery point yet",
            before=before,
            after=after,
        )

    async def _point(self, lsn: int) -> RecoveryPoint:
        return RecoveryPoint(self.history.timeline, lsn, await self.time_of(lsn))


def _in_gap(wanted: str, gap: Gap | None) -> str:
    reason = f" ({gap.reason})" if gap and gap.reason else ""
    return f"{wanted} lies where the domain was not consistent{reason}"


def _similar(name: str, marks: Mapping[str, RecoveryPoint]) -> str:
    close = get_close_matches(name, marks, 3)
    if close:
        return "similar marks: " + ", ".join(map(repr, close))
    return (
        f"marks: {', '.join(map(repr, list(marks)[-5:]))}"
        if marks
        else "it has none; use an LSN, a time with zone, or 'latest'"
    )
