"""Resolver: finds the recovery point that a caller asked for, or refuses it with the nearest points on both sides.

Invariants: a point is consistent, and lies before any break in the chain. An instant resolves to the last LSN captured
at or before it. One question reads at most one segment's index, and a refusal as many as it names points.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from jetdr_core.catalog.at import AtLsn, AtName, AtTime
from jetdr_core.catalog.chain import ChainBreak
from jetdr_core.catalog.history import DomainHistory, Gap
from jetdr_core.catalog.instant import DAY_NS
from jetdr_core.catalog.point import Interval, RecoveryPoint, iso_time
from jetdr_core.catalog.record_times import RecordTimes
from jetdr_core.catalog.tail_loss import TailLoss
from jetdr_core.errors import ChainBroken, Forged, InstantInGap, InvalidRequest, NoSuchPoint

CLOCK_AHEAD_NS_MAX = 300 * 10**9
"""How far the clock of an owner may be ahead of ours."""


class Reach(NamedTuple):
    """How far the history reaches: its last LSN, the last instant of which it is known, and what is lost after that."""

    lsn_last: int
    time_last_ns: int
    chain_break: ChainBreak | None
    tail_loss: TailLoss | None = None


@dataclass(frozen=True, slots=True)
class Resolver:
    """The recovery points of one history. ``url`` names the domain's store in errors."""

    url: str
    history: DomainHistory
    reach: Reach
    intervals: Sequence[Interval]
    times: RecordTimes

    async def resolve(self, at: AtLsn | AtTime | AtName) -> RecoveryPoint:
        """The point, or :class:`NoSuchPoint`, :class:`InstantInGap`, :class:`ChainBroken` after a break."""
        if isinstance(at, AtName):
            return await self._named(at)
        if isinstance(at, AtTime):
            return await self._instant(at.time_ns)
        self._refuse_time_as_lsn(at)
        if at.lsn > self.reach.lsn_last:
            raise await self._beyond(f"LSN {at.lsn}")
        return await self._checked(at.lsn, f"LSN {at.lsn}")

    def _refuse_time_as_lsn(self, at: AtLsn) -> None:
        """Refuse a bare number that may be a time of this history.

        A number that is no LSN of the history, or has the digits of a date, may be a time up to a year away from it.
        Any other number must lie within a day of it, so that LSNs are refused only for a while.
        """
        if at.as_time is None or not self.intervals:
            return
        is_loose = at.as_time.is_calendar or at.lsn > self.reach.lsn_last
        margin_ns = (366 if is_loose else 1) * DAY_NS
        first_ns, last_ns = self._time_first_ns - margin_ns, self.reach.time_last_ns + margin_ns
        if first_ns <= at.as_time.time_ns <= last_ns:
            raise InvalidRequest(
                f"{at.lsn} may be an LSN or a time", hint=f"use lsn:{at.lsn} or {iso_time(at.as_time.time_ns)}"
            )

    @property
    def _time_first_ns(self) -> int:
        """The earliest instant of all intervals. After a correction of the clock that need not be the first one's."""
        return min(interval.time_first_ns for interval in self.intervals)

    async def latest(self) -> RecoveryPoint | None:
        """The last consistent point, or None if the history offers no point yet."""
        return await self._point(self.intervals[-1].lsn_last) if self.intervals else None

    async def _instant(self, time_ns: int) -> RecoveryPoint:
        wanted = iso_time(time_ns)
        if time_ns > self.reach.time_last_ns:
            raise await self._beyond(wanted)
        if not self.intervals or time_ns < self._time_first_ns:
            raise await self._refusal(NoSuchPoint, 0, f"{wanted} lies before the first recovery point")
        lsn = await self.times.lsn_at(time_ns)
        gap = self.history.gap_at_time(time_ns)
        if gap is not None and self.history.consistent_at(lsn):
            raise await self._refusal(InstantInGap, gap.lsn_open, _in_gap(wanted, gap))
        await self._check_clock(time_ns, lsn)
        return await self._checked(lsn, wanted)

    async def _check_clock(self, time_ns: int, lsn: int) -> None:
        """Refuse an instant after which the clock of the domain's machine was ahead.

        ``lsn`` is the last LSN before it. If the next one bears a time that had not come yet, nobody knows when that
        was captured, and so nobody knows whether it belongs before the instant.
        """
        turn = self.times.turn_after(lsn)
        if turn is not None and lsn + 1 == turn.lsn:
            return
        latest_ns = time.time_ns() + CLOCK_AHEAD_NS_MAX if turn is None else turn.time_ns
        may_be_ahead = turn is not None or time_ns <= latest_ns < self.reach.time_last_ns
        if not may_be_ahead or lsn >= self.reach.lsn_last:
            return
        next_ns = await self.times.time_ns_of(lsn + 1)
        if next_ns <= latest_ns:
            return
        wrong = "which is in the future" if turn is None else f"but was captured before {iso_time(latest_ns)}"
        raise InstantInGap(
            f"{self.url}: {iso_time(time_ns)} lies where the clock of the domain's machine was wrong: LSN {lsn + 1} "
            f"bears {iso_time(next_ns)}, {wrong}",
            hint=f"name an LSN, a mark or 'latest'; LSN {lsn} was captured before the clock went wrong",
            before=await self._point(lsn),
            after=await self._point(lsn + 1),
        )

    async def _named(self, at: AtName) -> RecoveryPoint:
        name = at.name
        if name == "latest" and not at.is_mark:
            return await self._latest_or_refuse()
        mark = self.history.marks.get(name)
        if mark is None:
            end = self.reach.chain_break or self.reach.tail_loss
            where = f" up to LSN {self.reach.lsn_last}, where its chain ends: {end}" if end else ""
            raise NoSuchPoint(f"{self.url} has no mark {name!r}{where}", hint=_similar(name, self.history.marks))
        await self._checked(mark.lsn, f"mark {name!r} (LSN {mark.lsn})")
        return mark

    async def _latest_or_refuse(self) -> RecoveryPoint:
        """The last consistent point, unless a forged object hides what comes after it."""
        latest, end = await self.latest(), self.reach.chain_break
        if end is not None and end.is_forged:
            raise Forged(
                end.key,
                "chain",
                f"what follows LSN {self.reach.lsn_last} is hidden by a forged object: {end}",
                hint=f"remove it if it is not the domain's, or recover LSN {self.reach.lsn_last} or an earlier point",
            )
        if latest is None:
            raise NoSuchPoint(
                f"{self.url} offers no recovery point yet: {self.history.why_inconsistent or 'nothing was captured'}",
                hint="wait until the initial copy of its disks is complete",
            )
        return latest

    async def _checked(self, lsn: int, wanted: str) -> RecoveryPoint:
        if self.history.consistent_at(lsn):
            return await self._point(lsn)
        if not self.intervals or lsn < self.intervals[0].lsn_first:
            raise await self._refusal(NoSuchPoint, lsn, f"{wanted} lies before the first recovery point")
        raise await self._refusal(InstantInGap, lsn, _in_gap(wanted, self.history.gap_at(lsn)))

    async def _beyond(self, wanted: str) -> Exception:
        """The refusal of what lies after the last LSN, or after the last instant of which the history is known."""
        reach, end = self.reach, self.reach.chain_break
        if reach.tail_loss is not None:
            return ChainBroken(
                f"{wanted} lies after the end of the chain: {reach.tail_loss}",
                hint=f"LSN {reach.lsn_last} is the last that can be recovered",
                key=reach.tail_loss.key,
                lsn_last=reach.lsn_last,
            )
        if end is None:
            known = f"the last known is LSN {reach.lsn_last} at {iso_time(reach.time_last_ns)}"
            return await self._refusal(
                NoSuchPoint, reach.lsn_last + 1, f"{wanted} lies after the last recovery point: {known}"
            )
        return ChainBroken(
            f"{wanted} lies after a break in the chain: {end}",
            hint=f"LSN {reach.lsn_last} is the last that can be recovered",
            number=end.number,
            key=end.key,
            lsn_last=reach.lsn_last,
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
        return RecoveryPoint(self.history.timeline, lsn, await self.times.time_ns_of(lsn))


def _in_gap(wanted: str, gap: Gap | None) -> str:
    reason = f" ({gap.reason})" if gap and gap.reason else ""
    return f"{wanted} lies where the domain was not consistent{reason}"


def _similar(name: str, marks: Mapping[str, RecoveryPoint]) -> str:
    """A remedy for a mark's name that does not exist."""
    wanted = name.strip().casefold()
    if wanted == "latest":
        return "write 'latest' for the newest point"
    folded = {mark.casefold(): mark for mark in marks}
    if close := get_close_matches(wanted, folded, 3):
        return "similar marks: " + ", ".join(repr(folded[mark]) for mark in close)
    others = "use an LSN, 'latest', or a time such as 2026-01-31T12:00:00Z or -1h"
    return f"marks: {', '.join(map(repr, list(marks)[-5:]))}; or {others}" if marks else f"it has none; {others}"
