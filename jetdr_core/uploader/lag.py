"""UploadLag: how far the store lags, as the age of the oldest record that it lacks.

The time of a record is not known before the record is read. So the age comes from frequent looks at the source: a
record that is new at one look was captured after the look before. The age is therefore never too low.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jetdr_core.uploader.age import AgeOfOldest
from jetdr_core.uploader.source import LogSource

__all__ = ["UploadLag"]

LOOK_S = 0.05


class UploadLag:
    """Everything up to ``lsn`` is stored at first, and what follows is ``backlog_age_s`` old.

    ``clock`` gives seconds and never goes back. Thread-safe.
    """

    def __init__(self, source: LogSource, lsn: int, clock: Callable[[], float], *, backlog_age_s: float = 0.0) -> None:
        self._source = source
        self._clock = clock
        self._ages = AgeOfOldest(lsn, clock() - backlog_age_s)

    def age_s(self, lsn: int) -> float:
        """Return the age of the first record after ``lsn``, or 0 if there is none. ``lsn`` is stored or later."""
        self.look()
        since = self._ages.since(lsn)
        return 0.0 if since is None else self._clock() - since

    def stored(self, lsn: int) -> None:
        """Note that the store holds everything up to ``lsn``."""
        self._ages.stored(lsn)

    def look(self) -> None:
        now = self._clock()  # taken first: what arrives in between is then younger than it is said to be
        self._ages.look(self._source.observe()[0], now)

    async def look_forever(self) -> None:
        """Look at regular intervals. The cutter looks as well, but not while it waits for the store."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)
