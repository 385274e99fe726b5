"""AgeOfOldest: since when the oldest record waits that is not stored yet.

Invariant: memory is bounded. Instants that lie closer together than a 64th of the whole time are merged.
"""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["AgeOfOldest"]

_PART = 64


class AgeOfOldest:
    """Remembers for LSNs the latest instant at which each was the last one given out. Thread-safe."""

    def __init__(self, lsn: int, now: float) -> None:
        self._lock = threading.Lock()
        self._last_at: deque[tuple[int, float]] = deque([(lsn, now)])  # both ascending. The first LSN is stored

    def look(self, lsn: int, now: float) -> None:
        """Note that ``lsn`` was the last one given out at ``now``."""
        with self._lock:
            if lsn <= self._last_at[-1][0]:
                self._last_at[-1] = (self._last_at[-1][0], now)
                return
            if len(self._last_at) > 2 and self._last_at[-1][1] - self._last_at[-2][1] < self._part(now):
                self._last_at.pop()
            self._last_at.append((lsn, now))

    def stored(self, lsn: int) -> None:
        """Note that everything up to ``lsn`` is stored."""
        with self._lock:
            while len(self._last_at) > 1 and self._last_at[1][0] <= lsn:
                self._last_at.popleft()

    def since(self, lsn: int) -> float | None:
        """Return an instant shortly before the first record after ``lsn``, or None if there was none.

        ``lsn`` is stored or later.
        """
        with self._lock:
            if self._last_at[-1][0] <= lsn:
                return None
            return max((at for last, at in self._last_at if last <= lsn), default=self._last_at[0][1])

    def _part(self, now: float) -> float:
        return (now - self._last_at[0][1]) / _PART
