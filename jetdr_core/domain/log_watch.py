"""LogWatch: whether the log's device takes what it is given.

A device that hangs, or a target that reconnects, raises no error for a long time. Meanwhile nothing becomes durable.
And after an error of the log the domain stays open for some seconds, so that what the log holds is uploaded.

Invariant: a log that is full is in no trouble, for its device takes nothing because it is given nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jetdr_core.domain.trouble import Trouble, Troubles
from jetdr_core.errors import JetdrError

__all__ = ["LogPace", "LogWatch"]

LOOKS_MAX = 3
"""So many looks in a row, a second apart, may find that nothing was taken. A process that was stopped looks once."""

BATCH_SLACK_BYTES = 1 << 20


class LogPace(NamedTuple):
    """How far the log is: what it was given, what its device has taken, and how much room there is for the rest."""

    lsn_reserved: int
    lsn_written: int
    waiting_bytes: int
    room_bytes: int

    @property
    def waits(self) -> bool:
        """Whether records wait for the device, and not for room. Room at the end of a lap may be of no use."""
        has_room = self.room_bytes > 2 * self.waiting_bytes + BATCH_SLACK_BYTES
        return self.lsn_reserved > self.lsn_written and has_room


class LogWatch:
    """``failure`` gives what has made the log fail, ``pace`` how far it is, ``device_failure`` what its device says."""

    def __init__(
        self,
        failure: Callable[[], JetdrError | None],
        pace: Callable[[], LogPace],
        device_failure: Callable[[], str],
        troubles: Troubles | None = None,
    ) -> None:
        self._failure = failure
        self._pace = pace
        self._device_failure = device_failure
        self._troubles = troubles or Troubles()
        self._lsn_written = -1
        self._looks = 0

    @property
    def trouble(self) -> Trouble | None:
        return self._troubles.present

    def look(self) -> None:
        """To be called once a second."""
        failure, pace = self._failure(), self._pace()
        stands = pace.waits and pace.lsn_written == self._lsn_written
        self._looks, self._lsn_written = self._looks + 1 if stands else 0, pace.lsn_written
        if failure is not None:
            self._troubles.note(str(failure))
        elif self._looks >= LOOKS_MAX:
            why = self._device_failure()
            self._troubles.note(f"its device takes nothing after LSN {pace.lsn_written}" + (f": {why}" if why else ""))
        else:
            self._troubles.note("")
