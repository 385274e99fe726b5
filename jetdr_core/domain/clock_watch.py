"""ClockWatch: tells when the machine's clock cannot be trusted, and sees to it that the history says so.

A ring follows the wall clock only as far as the monotonic clock supports it (``native/core/record_clock.h``). When it
followed a larger step all the same, because the clock stayed there, the records around the step bear times at which
they were not captured. A recovery by instant must not resolve to one of them without a word. So the instants in doubt
become a gap without length: no LSN but the gap's own is lost as a recovery point, and each instant of it is refused.

Invariant: the doubt is taken from the ring only when the GAP_OPEN that stands for it has its place in the order.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from jetdr_core._core import Ring, RingClock
from jetdr_core.aio import in_thread
from jetdr_core.catalog import iso_time
from jetdr_core.control_bodies import GapOpen
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.copies import Copies
from jetdr_core.errors import JetdrError

__all__ = ["ClockWatch", "why_unsure"]

log = logging.getLogger(__name__)

POLL_S = 1.0
SLACK_NS = 10 * 10**9
"""By how much the clock may lag the last time given out before anybody is told. Ordinary corrections are smaller."""

REASON = "the clock was set, so the times of records around that moment are not certain"


class ClockWatch:
    """:meth:`look` is for any thread. :meth:`run` looks every second, until it is cancelled."""

    def __init__(self, name: str, ring: Ring, control_log: ControlLog, copies: Copies) -> None:
        self._name = name
        self._ring = ring
        self._control_log = control_log
        self._copies = copies

    @property
    def why(self) -> str:
        """Why the times of records are not the machine's, in words. Empty if they are."""
        return why_unsure(self._ring.look_at_clock())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            if not self._ring.look_at_clock().doubted_since_ns:
                continue
            try:
                await in_thread(self.look)
            except (JetdrError, OSError) as error:  # the ring is full, or the log failed: the doubt stays in the ring
                log.warning("domain %s: a doubt of its clock could not be logged yet: %s", self._name, error)

    def look(self) -> None:
        """Log the instants that are in doubt, if any, unless a gap is open. It is done when that gap is closed."""
        since_ns = self._ring.look_at_clock().doubted_since_ns
        if not since_ns:
            return
        with self._control_log.lock:
            if self._control_log.gap_open:
                return
            self._control_log.append(GapOpen(REASON, since_ns))
            self._ring.settle_doubt(since_ns)
        log.warning(
            "domain %s: the clock was set; instants from %s until now are no recovery points, but LSNs and marks are",
            self._name,
            iso_time(since_ns),
        )
        self._copies.close_gap_when_paid()


def why_unsure(clock: RingClock) -> str:
    """Why record times are not the wall clock's. Empty if they are, but for :data:`SLACK_NS`."""
    if clock.away_ns:
        way = "ahead" if clock.away_ns > 0 else "back"
        return (
            f"the clock went {way} by {_span(clock.away_ns)} after {iso_time(clock.away_since_ns)}; record times go on "
            "without it until it has stayed there for a minute"
        )
    lag_ns = clock.time_ns_last - clock.wall_ns
    if lag_ns <= SLACK_NS:
        return ""
    return (
        f"the clock is {_span(lag_ns)} before the last record time {iso_time(clock.time_ns_last)}; until it has passed "
        "that, all records bear that time: use marks and LSNs, not instants"
    )


def _span(ns: int) -> str:
    return str(timedelta(seconds=abs(ns) // 10**9))
