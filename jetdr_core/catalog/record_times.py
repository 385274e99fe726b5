"""RecordTimes: when an LSN was captured, and which LSN was the last one captured at an instant.

The chain's table has the first and the last LSN of every segment, with their times. For an LSN in between, the index of
its segment is read.

Invariant: times never decrease along LSN, so both questions are searches. A question reads at most one index.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from jetdr_core.catalog.indexes import IndexReader
from jetdr_core.catalog.links import LinkTable
from jetdr_core.errors import ChainBroken, DamagedObject

log = logging.getLogger(__name__)


class RecordTimes:
    """The times of the records in ``segments``, which ``indexes`` reads."""

    def __init__(self, segments: LinkTable, indexes: IndexReader) -> None:
        self._segments = segments
        self._indexes = indexes

    async def time_ns_of(self, lsn: int) -> int:
        """When ``lsn`` was captured, an LSN of the history.

        If its segment's index cannot be read, the time of that segment's first record.
        """
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

    async def lsn_at(self, time_ns: int) -> int:
        """The last LSN captured at or before ``time_ns``, which must not lie before the first record."""
        row = self._last_row("first_time_ns", time_ns)
        if int(row["last_time_ns"]) <= time_ns:
            return int(row["last_lsn"])
        lsns, times = await self._read(row)
        return int(lsns[int(np.searchsorted(times, time_ns, "right")) - 1])

    async def time_ns_after(self, time_ns: int) -> int | None:
        """When the first LSN was captured that was captured after ``time_ns``. None if there is none."""
        nth = int(np.searchsorted(self._segments["last_time_ns"], time_ns, "right"))
        if nth == len(self._segments):
            return None
        row = self._segments[nth]
        if int(row["first_time_ns"]) > time_ns:
            return int(row["first_time_ns"])
        _lsns, times = await self._read(row)
        return int(times[int(np.searchsorted(times, time_ns, "right"))])

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
