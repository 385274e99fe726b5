"""Overload: reads log and guests, has the ladder decide, and tells the filters in the ring what their disks may log.

Invariants: nothing here waits. What the filters are told holds for a few seconds only, so a process that is gone or
hangs delays no guest.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from jetdr_core._core import Ring
from jetdr_core.domain.ladder import Ladder, LadderStatus, LadderStep, Reading, Rung
from jetdr_core.options import DomainOptions
from jetdr_core.replication_log import ReplicationLog

__all__ = ["Overload"]

TELL_S = 0.5
VALID_S = 3.0
"""Longer than a look takes, and short for a guest that is delayed in vain."""
UNBOUNDED_S = 60.0
"""More than can be waited in 10 seconds, and as much at once as a write is delayed."""


class Overload:
    """:meth:`look` belongs to one thread; :attr:`step` is for any.

    ``written_bytes`` says what guests have written as far as is known. It may fall, since counters begin anew with a
    host component. ``owes_resync`` says whether what guests wrote is still to be copied. With ``budget_s`` None there
    is no limit to what guests may wait, because the alternative is an error.
    """

    def __init__(
        self,
        ring: Ring,
        log: ReplicationLog,
        options: DomainOptions,
        *,
        budget_s: float | None,
        written_bytes: Callable[[], int] = lambda: 0,
        owes_resync: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = ring
        self._log = log
        self._options = options
        self._budget_s = budget_s
        self._count = written_bytes
        self._owes_resync = owes_resync
        self._clock = clock
        self._counted = self._written = 0
        self._told: tuple[float, int | None] | None = None
        self._ladder = Ladder(options, clock())

    @property
    def step(self) -> LadderStep:
        """Where the domain stands. Times are those of ``clock``."""
        return self._ladder.step

    @property
    def is_throttling(self) -> bool:
        """Whether the log is so full that guests are delayed, or are about to be."""
        return self.step.rung is Rung.THROTTLED

    def status(self) -> LadderStatus:
        """Where the domain stands, by the machine's clock."""
        step = self.step
        since_ns = time.time_ns() - int((self._clock() - step.since_s) * 1e9)
        return LadderStatus(step.rung.value, since_ns, step.why, step.limit_bytes_per_s)

    def look(self, *, why_off: str = "", is_free: bool = True) -> LadderStep:
        """Take the next step. ``why_off`` and ``is_free`` are about logging that is off."""
        log, off, now_s = self._log.state(), self._ring.off(), self._clock()
        step = self._ladder.look(
            Reading(
                now_s=now_s,
                log_bytes=log.data_bytes,
                head=log.head_position,
                tail=log.tail.position,
                logging=off.logging,
                off_times=off.times,
                why_off=why_off,
                written_bytes=self._total(),
                is_free=is_free,
                owes_resync=self._owes_resync(),
            )
        )
        self._tell(step, now_s)
        return step

    def resumed(self) -> None:
        """Logging was switched on again."""
        self._ladder.resumed(self._clock())

    def _total(self) -> int:
        counted = self._count()
        self._written += counted - self._counted if counted >= self._counted else counted
        self._counted = counted
        return self._written

    def _tell(self, step: LadderStep, now_s: float) -> None:
        limit = step.limit_bytes_per_s
        if self._told is not None and self._told[1] == limit and now_s - self._told[0] < TELL_S:
            return
        self._told = now_s, limit
        self._ring.set_pressure(
            limit,
            delay_max_s=self._options.throttle_delay_max_s,
            budget_s=UNBOUNDED_S if self._budget_s is None else self._budget_s,
            valid_s=VALID_S,
        )
