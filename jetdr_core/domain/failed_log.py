"""FailedLog: when to give up a log that has failed, so that the domain is opened again and guests are protected again.

A log that failed takes nothing more until it is opened again. Until then guests write to the ring, and bypass the log
once the ring is full or a flush has waited for the stall limit. Its device may answer again after seconds. But the
device may also be broken for good, and what the log holds is then worth uploading first.

Invariant: a failure is reported within ``REST_LIMIT_S``. It is reported at once if nothing is being uploaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from jetdr_core.errors import JetdrError

__all__ = ["REST_LIMIT_S", "FailedLog"]

REST_LIMIT_S = 10.0
QUIET_S = 1.0
"""An upload that has not moved for so long is not waited for."""


class FailedLog:
    """``failure`` gives what has made the log fail, or None. ``lsn_uploaded`` gives how far the upload is.

    ``is_idle`` tells that the upload does not move at present. ``clock`` gives seconds, and never goes back.
    """

    def __init__(
        self,
        failure: Callable[[], JetdrError | None],
        lsn_uploaded: Callable[[], int],
        is_idle: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failure = failure
        self._lsn_uploaded = lsn_uploaded
        self._is_idle = is_idle
        self._clock = clock
        self._noticed_s: float | None = None
        self._moved_s = 0.0
        self._lsn = 0

    def look(self) -> JetdrError | None:
        """Return the failure, once the rest of the log is uploaded or waiting for that no longer pays."""
        failure = self._failure()
        if failure is None:
            return None
        now, lsn = self._clock(), self._lsn_uploaded()
        if self._noticed_s is None:
            self._noticed_s = self._moved_s = now
        elif lsn > self._lsn:
            self._moved_s = now
        self._lsn = lsn
        waits = now - self._moved_s < QUIET_S and now - self._noticed_s < REST_LIMIT_S
        return None if waits and not self._is_idle() else failure
