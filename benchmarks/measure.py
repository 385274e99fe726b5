"""What a benchmark returns, rows of figures beside those of a peer in the same run, and how figures are taken.

Invariant: the engine and its peers take turns, and every round reverses the order, so that a drift of the machine meets
all of them alike.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["AtLeast", "AtMost", "PeerMissing", "Row", "Scale", "interleaved", "median", "percentile"]


class Scale(enum.Enum):
    """How much is done. TINY only shows that a benchmark runs: its figures mean nothing."""

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"


class PeerMissing(Exception):
    """A program to compare with is not installed. The message names it."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A target that a figure of ``bound`` or more reaches."""

    bound: float

    def reached(self, figure: float) -> bool:
        return figure >= self.bound

    def __str__(self) -> str:
        return f">= {self.bound:g}"


@dataclass(frozen=True, slots=True)
class AtMost:
    """A target that a figure of ``bound`` or less reaches."""

    bound: float

    def reached(self, figure: float) -> bool:
        return figure <= self.bound

    def __str__(self) -> str:
        return f"<= {self.bound:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. The target judges ``figure``, or the ratio of ours to theirs if no figure is given."""

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
        """Whether the target was reached. None if there is no target."""
        return None if self.target is None or self.judged is None else self.target.reached(self.judged)


Figure = TypeVar("Figure")


def interleaved(rounds: int, *works: Callable[[], Figure]) -> list[list[Figure]]:
    """Return ``rounds`` figures of each work. The works take turns, and each call returns a figure, e.g. seconds."""
    figures: list[list[Figure]] = [[] for _ in works]
    for nth in range(rounds):
        order = range(len(works)) if nth % 2 == 0 else reversed(range(len(works)))
        for place in order:
            figures[place].append(works[place]())
    return figures


def median(figures: Sequence[float]) -> float:
    return statistics.median(figures)


def percentile(figures: Sequence[float], percent: float) -> float:
    """Return the smallest figure that ``percent`` of all figures do not exceed."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
