"""Ladder: what a domain does when guests write more than the store takes, and how it comes back. Pure.

The problem: a log in which more arrives than leaves is full one day. If guests then wait for room, the store's speed is
theirs for ever. If logging goes off and comes back as soon as there is room, a resync fills the log again, and guests
wait for a protection that never comes.

The rungs, from the top:

    DIRECT      the log is nearly empty.
    SPILL       the log fills, and guests do not notice.
    THROTTLED   the log is nearly full. Each disk may log no more than a limit, which brings what arrives down to what
                leaves the fuller the log is. What that may cost a guest is bounded by a budget (``throttle_wait_s``).
    BYPASS      logging is off. Writes bypass the log while it drains.
    PROBE       the log has drained, and logging is switched on once that can last: guests write little enough for a
                resync to win, and the wait after the last failure is over.
    RESYNC      logging is on, and what bypassed the log is copied. Copies yield to guests and to THROTTLED.

Invariants: every edge has hysteresis. A return that fails before its resync has ended doubles the wait before the next
one. Times come from the caller, and never go back.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from jetdr_core.options import DomainOptions

__all__ = ["Ladder", "LadderStatus", "LadderStep", "Reading", "Rung"]

SPILL_FILL = 0.1
"""A log that is fuller than this is said to fill."""
HYSTERESIS_FILL = 0.05
"""A rung that a filling log has entered is left when the log is emptier than that by this much."""
CONTROL_S = 0.5
"""How often the limit is adapted."""
RATE_S = 10.0
"""Rates are measured over this long. Uploads arrive in segments, so over less they say little."""
MEASURED_S = 5.0
"""A log that drained in less says nothing of the store: uploads come in leaps, and late after an outage."""
RETURN_FIRST_S = 0.05
RETURN_FAILED_S = 1.0
CALM_S = 60.0
"""A return that lasted so long has not failed, even if its resync had not ended."""
LIMIT_BYTES_PER_S_MIN = 64 << 10
"""So little is always allowed. What it costs a guest is bounded by the budget."""


class Rung(enum.Enum):
    """Where a domain stands on the ladder."""

    DIRECT = "direct"
    SPILL = "spill"
    THROTTLED = "throttled"
    BYPASS = "bypass"
    PROBE = "probe"
    RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class LadderStatus:
    """The rung on which a domain stands, since when, why, and what each disk may log (None: no write is delayed)."""

    rung: str
    since_ns: int
    why: str
    limit_bytes_per_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the ladder looks at, at one moment.

    ``head`` and ``tail`` are the log's positions, which only grow, and ``log_bytes`` its size. ``off_times``: how often
    logging went off. ``written_bytes``: what guests have written since the domain was opened, logged or not.
    ``is_free``: nothing but load keeps logging off: log, ring and upload work, and the primaries have what was logged.
    """

    now_s: float
    log_bytes: int
    head: int
    tail: int
    logging: bool
    off_times: int
    why_off: str
    written_bytes: int
    is_free: bool
    owes_resync: bool

    @property
    def fill(self) -> float:
        return (self.head - self.tail) / self.log_bytes


@dataclass(frozen=True, slots=True)
class LadderStep:
    """Where the domain stands now, since when, and why.

    ``limit_bytes_per_s``: what each disk may log, or None if nothing is delayed. ``may_return``: logging is to be
    switched on.
    """

    rung: Rung
    since_s: float
    why: str
    limit_bytes_per_s: int | None = None
    may_return: bool = False


class Ladder:
    """Belongs to one thread; :attr:`step` is for any."""

    def __init__(self, options: DomainOptions, now_s: float) -> None:
        self.step = LadderStep(Rung.DIRECT, now_s, "")
        self._options = options
        self._shipped = _Rate(RATE_S)
        self._written = _Rate(RATE_S)
        self._drained = _Drained()
        self._limit: float | None = None
        self._controlled: tuple[float, int] | None = None  # when the limit was adapted, and the log's head then
        self._off_times = 0
        self._noticed_s = now_s
        self._resumed_s: float | None = None
        self._owed = False
        self._delay_s = RETURN_FIRST_S

    def look(self, reading: Reading) -> LadderStep:
        """Take the step that ``reading`` asks for, which may be to stay."""
        if reading.fill < SPILL_FILL - HYSTERESIS_FILL:
            self._shipped.clear()  # there is so little to ship that it says nothing of the store
        self._shipped.note(reading.now_s, reading.tail)
        self._written.note(reading.now_s, reading.written_bytes)
        if not reading.logging and reading.off_times != self._off_times:
            self._notice(reading)
        rung, why, may_return = self._logging_on(reading) if reading.logging else self._logging_off(reading)
        limit = self._adapt(reading) if rung is Rung.THROTTLED else None
        if limit is None:
            self._limit = self._controlled = None
        since_s = self.step.since_s if rung is self.step.rung else reading.now_s
        self._owed = reading.owes_resync if reading.logging else self._owed
        self.step = LadderStep(rung, since_s, why, None if limit is None else int(limit), may_return)
        return self.step

    def resumed(self, now_s: float) -> None:
        """Logging was switched on."""
        self._resumed_s, self._owed = now_s, True

    # -- logging is on -----------------------------------------------------------------------------------------------

    def _logging_on(self, reading: Reading) -> tuple[Rung, str, bool]:
        fill = reading.fill
        if fill >= self._since(Rung.THROTTLED, self._options.throttle_fill):
            shipped = self._shipped.per_s
            said = "" if shipped is None else f", and {_mib(shipped)} are shipped"
            return Rung.THROTTLED, f"the log is {fill:.0%} full{said}", False
        if reading.owes_resync:
            return Rung.RESYNC, "what bypassed the log, or may differ, is copied", False
        if fill >= self._since(Rung.SPILL, SPILL_FILL):
            return Rung.SPILL, f"the log is {fill:.0%} full", False
        return Rung.DIRECT, "", False

    def _since(self, rung: Rung, fill: float) -> float:
        """Where the rung is left if the domain stands there, or entered otherwise."""
        stays = self.step.rung is rung or (rung is Rung.SPILL and self.step.rung is Rung.THROTTLED)
        return fill - HYSTERESIS_FILL if stays else fill

    def _adapt(self, reading: Reading) -> float | None:
        """Return what each disk may log from now on.

        All disks together may log what is shipped, divided by how far the log is between the threshold and half way
        from there to the end. So they may log much at first, what is shipped at half way, and less beyond. The limit of
        one disk follows from what all of them have logged since the last time.
        """
        threshold = self._options.throttle_fill
        excess = (reading.fill - threshold) / max((1 - threshold) / 2, 1e-9)
        shipped = self._shipped.per_s
        if excess <= 0 or shipped is None:
            return None
        target = shipped / excess
        if self._controlled is None or self._limit is None:
            self._controlled, self._limit = (reading.now_s, reading.head), target
        elapsed_s = reading.now_s - self._controlled[0]
        if elapsed_s >= CONTROL_S:
            logged = (reading.head - self._controlled[1]) / elapsed_s
            self._limit *= min(2.0, max(0.5, target / max(logged, 1.0)))
            self._controlled = reading.now_s, reading.head
        self._limit = max(min(self._limit, target), LIMIT_BYTES_PER_S_MIN)
        return self._limit

    # -- logging is off ----------------------------------------------------------------------------------------------

    def _notice(self, reading: Reading) -> None:
        """Logging went off. If it was on too short for the resync, the next return waits longer."""
        lasted_s = reading.now_s - self._resumed_s if self._resumed_s is not None else CALM_S
        failed = self._owed and lasted_s < CALM_S
        longer_s = min(max(RETURN_FAILED_S, 2 * self._delay_s), self._options.return_delay_max_s)
        self._delay_s = longer_s if failed else RETURN_FIRST_S
        self._off_times, self._noticed_s = reading.off_times, reading.now_s
        self._drained = _Drained()

    def _logging_off(self, reading: Reading) -> tuple[Rung, str, bool]:
        self._drained.note(reading.now_s, reading.tail)
        if not reading.is_free or reading.fill > self._options.return_fill:
            return Rung.BYPASS, reading.why_off, False
        left_s = self._delay_s - (reading.now_s - self._noticed_s)
        if left_s > 0:
            return (
                Rung.PROBE,
                f"{reading.why_off}; the last return failed, and the next is tried in {left_s:.0f} s",
                False,
            )
        shipped = self._drained.per_s(reading.now_s, self._options.return_delay_max_s)
        written = self._written.per_s or 0.0
        if shipped is not None and written > self._options.return_load * shipped:
            return Rung.PROBE, f"guests write {_mib(written)}, and only {_mib(shipped)} were shipped", False
        return Rung.PROBE, reading.why_off, True


class _Rate:
    """How quickly a number grows, over ``window_s`` or, where it grows in leaps, over two of them."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._moves: deque[tuple[float, int]] = deque()
        self._last = (0.0, 0)

    def clear(self) -> None:
        """Forget what was measured."""
        self._moves.clear()

    def note(self, now_s: float, value: int) -> None:
        if not self._moves or value != self._last[1]:
            self._moves.append((now_s, value))
        self._last = now_s, value
        while len(self._moves) > 2 and now_s - self._moves[1][0] >= self._window_s:
            self._moves.popleft()

    @property
    def per_s(self) -> float | None:
        """None before it is known: after the window, or two moves."""
        if not self._moves:
            return None
        elapsed_s = self._last[0] - self._moves[0][0]
        if elapsed_s <= 0 or (elapsed_s < self._window_s and len(self._moves) < 3):
            return None
        return (self._last[1] - self._moves[0][1]) / elapsed_s


class _Drained:
    """How quickly the log drains while nothing is added: from the first time that its tail moves to the last."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def note(self, now_s: float, tail: int) -> None:
        if self._before is not None and tail > self._before:
            self._first, self._last = self._first or (now_s, tail), (now_s, tail)
        self._before = tail

    def per_s(self, now_s: float, lasts_s: float) -> float | None:
        """None if it is not known, or no longer: the store may be quicker by now."""
        if self._first is None or self._last is None or now_s - self._last[0] > lasts_s:
            return None
        took_s = self._last[0] - self._first[0]
        return (self._last[1] - self._first[1]) / took_s if took_s >= MEASURED_S else None


def _mib(bytes_per_s: float) -> str:
    return f"{bytes_per_s / (1 << 20):.1f} MiB/s"
