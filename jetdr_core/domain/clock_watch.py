"""ClockWatch: tells when the machine's clock cannot be trusted, and sees to it that the history says so.

A ring follows the wall clock only as far as the monotonic clock supports it (``native/core/record_clock.h``). When it
followed a larger step all the same, because the clock stayed there, the records around the step bear times at which
they were not captured. A recovery by instant must not resolve to one of them without a word. So the instants in doubt
become a gap without length: no LSN but the gap's own is lost as a recovery point, and each instant of it is refused.

After a step back the log's clock is ahead of the machine's. If that is more than :data:`CORRECTED_NS` and stays so, the
GAP_OPEN says by how much. From there on record times go on ahead of the true time, and readers take off what they are
ahead by. So every later instant finds its record.

Invariants: the doubt is taken from the ring only when the GAP_OPEN that stands for it has its place in the order. By
how much the ring is ahead is what the history says, or the history is about to say it.
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
CORRECTED_NS = 60 * 10**9
"""If the log's clock is further ahead, for as long as this, the history says so."""

REASON = "the clock was set, so the times of records around that moment are not certain"


CORRECTION = "the log's clock was ahead, so the times of records before that moment are not certain"


class ClockWatch:
    """:meth:`look` is for any thread. :meth:`run` looks every second, until it is cancelled."""

    def __init__(self, name: str, ring: Ring, control_log: ControlLog, copies: Copies) -> None:
        self._name = name
        self._ring = ring
        self._control_log = control_log
        self._copies = copies
        self._ahead_since_ns: int | None = None  # on the monotonic clock
        if control_log.history.ahead_ns > ring.look_at_clock().lead_ns:
            ring.set_lead(control_log.history.ahead_ns)

    @property
    def ahead_s(self) -> float:
        """By how much the log's clock is ahead of the machine's, beyond what the history says. Negative: it lags."""
        return ahead_ns(self._ring.look_at_clock()) / 1e9

    @property
    def why(self) -> str:
        """Why the times of records are not the machine's, in words. Empty if they are."""
        return why_unsure(self._ring.look_at_clock())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await in_thread(self.look)
            except (JetdrError, OSError) as error:  # the ring is full, or the log failed: the doubt stays in the ring
                log.warning("domain %s: a doubt of its clock could not be logged yet: %s", self._name, error)

    def look(self) -> None:
        """Log what the history has to say of the clock, if anything. While writes bypass the log it has to wait."""
        clock = self._ring.look_at_clock()
        if not self._ring.logging:
            return
        if self._is_to_be_corrected(clock):
            self._ring.set_lead(clock.time_ns_last - clock.wall_ns)
            clock = self._ring.look_at_clock()
        if clock.lead_ns > self._control_log.history.ahead_ns:
            self._log_correction(clock)
        elif clock.doubted_since_ns:
            self._log_doubt(clock.doubted_since_ns)

    def _is_to_be_corrected(self, clock: RingClock) -> bool:
        """Whether the log's clock is ahead, and the machine's clock has stayed where it is."""
        if clock.away_ns or ahead_ns(clock) <= CORRECTED_NS:
            self._ahead_since_ns = None
            return False
        if self._ahead_since_ns is None:
            self._ahead_since_ns = clock.monotonic_ns
        is_confirmed = clock.doubted_since_ns != 0  # by the ring, after a minute
        return is_confirmed or clock.monotonic_ns - self._ahead_since_ns >= CORRECTED_NS

    def _log_correction(self, clock: RingClock) -> None:
        with self._control_log.lock:
            doubted_since_ns = (
                0 if self._control_log.gap_open else clock.doubted_since_ns
            )  # it is logged after that gap
            self._control_log.append(GapOpen(CORRECTION, doubted_since_ns or None, clock.lead_ns))
            self._ring.settle_doubt(doubted_since_ns)
        log.warning(
            "domain %s: the log's clock is ahead by %s in all; from now on the history takes that off, and points are "
            "found by their true times",
            self._name,
            _span(clock.lead_ns),
        )
        self._copies.close_gap_when_paid()

    def _log_doubt(self, since_ns: int) -> None:
        """Log the instants that are in doubt, unless a gap is open. It is done when that gap is closed."""
        with self._control_log.lock:
            if self._control_log.gap_open:
                return
            self._control_log.append(GapOpen(REASON, since_ns))
            self._ring.settle_doubt(since_ns)
        log.warning(
            "domain %s: the clock was set; instants from %s until now are no recovery points, but LSNs and marks are",
            self._name,
            iso_time(since_ns - self._control_log.history.ahead_ns),
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
    lag_ns = ahead_ns(clock)
    if lag_ns <= SLACK_NS:
        return ""
    return (
        f"the clock is {_span(lag_ns)} before the last record time {iso_time(clock.time_ns_last)}; until it has passed "
        "that, or the history says so, all records bear that time: use marks and LSNs, not instants"
    )


def ahead_ns(clock: RingClock) -> int:
    """Return by how much the last record time is ahead of the machine's clock and the lead that the history knows."""
    return clock.time_ns_last - clock.lead_ns - clock.wall_ns


def _span(ns: int) -> str:
    return str(timedelta(seconds=abs(ns) // 10**9))
