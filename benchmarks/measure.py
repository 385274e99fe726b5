"""What a benchmark gives: rows of figures, each beside its peer's from the same run; and how they are taken.

Invariant: rounds alternate between ours and the peers', in turning order, so that a drift of the machine meets all.
"""

from __future__ import annotations

import enum
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["AtLeast", "AtMost", "PeerMissing", "Row", "Scale", "Stopwatch", "interleaved", "median", "percentile"]


class Scale(enum.Enum):
    """How much is done. Figures of TINY mean nothing: it only shows that a benchmark runs."""

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"


class PeerMissing(Exception):
    """A program to compare with is not installed; the message names it."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Reached by a figure of at least ``bound``."""

    bound: float

    def reached(self, figure: float) -> bool:
        return figure >= self.bound

    def __str__(self) -> str:
        return f">= {self.bound:g}"


@dataclass(frozen=True, slots=True)
class AtMost:
    """Reached by a figure of at most ``bound``."""

    bound: float

    def reached(self, figure: float) -> bool:
        return figure <= self.bound

    def __str__(self) -> str:
        return f"<= {self.bound:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. ``figure`` is what the target is about: the ratio to the peer unless given."""

    measure: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    figure: float | None = None
    target: AtLeast | AtMost | None = None
    note: str = ""

    @property
    def judged(self) -> float | None:
        if self.figure is not None:
            return self.figure
        return self.ours / self.theirs if self.theirs else None

    @property
    def reached(self) -> bool | None:
        """None where there is no target."""
        return None if self.target is None or self.judged is None else self.target.reached(self.judged)


class Stopwatch:
    """Seconds spent inside ``with watch.running():``."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begun


Figure = TypeVar("Figure")


def interleaved(rounds: int, *works: Callable[[], Figure]) -> list[list[Figure]]:
    """``rounds`` figures of each work, the works taking turns; each returns its own figure (seconds, say)."""
    figures: list[list[Figure]] = [[] for _ in works]
    for nth in range(rounds):
        order = range(len(works)) if nth % 2 == 0 else reversed(range(len(works)))
        for place in order:
            figures[place].append(works[place]())
    return figures


def median(figures: Sequence[float]) -> float:
    return statistics.median(figures)


def percentile(figures: Sequence[float], percent: float) -> float:
    """The smallest figure that ``percent`` of all do not exceed."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
