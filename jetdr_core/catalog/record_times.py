"""RecordTimes: when an LSN was captured, and which LSN was the last one captured at an instant.

The chain's table has the first and the last LSN of every segment, with their times. For an LSN in between, the index of
its segment is read.

Record times never decrease along LSN. True times do, where the history says that record times had been ahead. Between
two such turns of the clock both differ by the same amount. An instant belongs to the last turn that came before it.

Invariant: within one turn times do not decrease, so both questions are searches. A question reads at most one index.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jetdr_core.catalog.history import ClockTurn, last_turn_at
from jetdr_core.catalog.indexes import IndexReader
from jetdr_core.catalog.links import LinkTable
from jetdr_core.errors import ChainBroken, DamagedObject

log = logging.getLogger(__name__)


class RecordTimes:
    """The times of the records in ``segments``, which ``indexes`` reads. ``turns`` of the clock are in LSN order."""

    def __init__(self, segments: LinkTable, indexes: IndexReader, turns: Sequence[ClockTurn] = ()) -> None:
        self._segments = segments
        self._indexes = indexes
        self._turns = turns

    def turn_after(self, lsn: int) -> ClockTurn | None:
        """The first turn of the clock after ``lsn``."""
        nth = bisect_right(self._turns, lsn, key=lambda turn: turn.lsn)
        return self._turns[nth] if nth < len(self._turns) else None

    async def time_ns_of(self, lsn: int) -> int:
        """When ``lsn`` was captured, an LSN of the history.

        If its segment's index cannot be read, the time of that segment's first record.
        """
        nth = bisect_right(self._turns, lsn, key=lambda turn: turn.lsn) - 1
        return await self._record_time_ns_of(lsn) - self._ahead_ns(nth)

    async def lsn_at(self, time_ns: int) -> int:
        """The last LSN captured at or before ``time_ns``, which must not lie before the first record."""
        nth = last_turn_at(self._turns, time_ns)
        lsn = await self._lsn_at_record_time(time_ns + self._ahead_ns(nth))
        return min(lsn, self._turns[nth + 1].lsn - 1) if nth + 1 < len(self._turns) else lsn

    async def certain_until_ns(self, turn: ClockTurn) -> int:
        """The last instant before a turn of the clock at which it is known which records had been captured.

        A record that bears a time after the turn was captured before it, and nobody knows when.
        """
        lsn = await self.lsn_at(turn.time_ns - 1)
        return turn.time_ns - 1 if lsn + 1 == turn.lsn else await self.time_ns_of(lsn) - 1

    def _ahead_ns(self, nth: int) -> int:
        """By how much record times are ahead after the nth turn. Before the first they are not."""
        return self._turns[nth].ahead_ns if nth >= 0 else 0

    async def _record_time_ns_of(self, lsn: int) -> int:
        row = self._last_row("first_lsn", lsn)
        for known, time_ns in (("first_lsn", "first_time_ns"), ("last_lsn", "last_time_ns")):
            if int(row[known]) == lsn:
                return int(row[time_ns])
        try:
            lsns, times = await self._read(row)
        except (DamagedObject, ChainBroken) as error:
            log.warning("the time of LSN %d is taken from its segment's first record: %s", lsn, error)
            return int(row["first_time_ns"])
        return int(times[int(np.searchsorted(lsns, lsn))])

    async def _lsn_at_record_time(self, time_ns: int) -> int:
        row = self._last_row("first_time_ns", time_ns)
        if int(row["last_time_ns"]) <= time_ns:
            return int(row["last_lsn"])
        lsns, times = await self._read(row)
        return int(lsns[int(np.searchsorted(times, time_ns, "right")) - 1])

    def _last_row(self, column: str, value: int) -> np.void:
        """The last segment that begins at or before ``value``."""
        row: np.void = self._segments[int(np.searchsorted(self._segments[column], value, "right")) - 1]
        return row

    async def _read(self, row: np.void) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """LSN and time of every record of a segment, in LSN order."""
        index = await self._indexes.read(int(row["number"]))
        control_lsns = np.array([record.lsn for record in index.control], np.uint64)
        control_times = np.array([record.time_ns for record in index.control], np.int64)
        lsns = np.concatenate([index.entries["lsn"], control_lsns])
        times = np.concatenate([index.entries["time_ns"], control_times])
        order = np.argsort(lsns, kind="stable")
        return lsns[order], times[order]
