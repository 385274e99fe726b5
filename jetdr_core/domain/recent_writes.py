"""RecentWrites: a sample of where each disk was written, taken from the records on their way to the store.

Invariant: memory and time are bounded, however much is written: a few records of each batch, the newest of each disk.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict, deque
from typing import NamedTuple

import numpy as np

from jetdr_core.record import Kind, RecordHeaders

__all__ = ["RecentWrites", "Written"]

BATCH_SAMPLES = 4
DISK_SAMPLES = 64


class Written(NamedTuple):
    """[offset, offset + length) of a disk was written."""

    offset: int
    length: int


class RecentWrites:
    """Thread-safe."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._of_disk: defaultdict[int, deque[Written]] = defaultdict(lambda: deque(maxlen=DISK_SAMPLES))

    def note(self, headers: RecordHeaders) -> None:
        """Take the records of a batch."""
        rows = np.flatnonzero(headers["kind"] <= Kind.ZERO)
        with self._lock:
            for row in self._rng.sample(range(len(rows)), min(BATCH_SAMPLES, len(rows))):
                record = headers[rows[row]]
                self._of_disk[int(record["disk"])].append(Written(int(record["offset"]), int(record["length"])))

    def of(self, disk: int) -> list[Written]:
        """Return places of disk number ``disk``, written lately, oldest first."""
        with self._lock:
            return list(self._of_disk.get(disk, ()))
