"""UploadLatency: how long objects took to be stored, counted in fixed buckets."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

__all__ = ["LATENCY_BOUNDS_S", "UploadLatency"]

LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets, inclusive. One more bucket is for what took longer."""


@dataclass(slots=True)
class UploadLatency:
    """``counts`` by bucket, not cumulative, and the sum of all. Retries and their waits are included."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.sum_s += seconds
