"""Trouble: something that the domain needs fails at present. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Trouble", "Troubles"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """``reason`` is the newest. The trouble began at ``since_ns``."""

    reason: str
    since_ns: int


class Troubles:
    """The present trouble of one thing, with its beginning. For one thread at a time; any may read :attr:`present`."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self.present: Trouble | None = None

    def note(self, reason: str) -> None:
        """Note what is wrong at this moment. Empty: nothing is, and the trouble has ended."""
        since_ns = self._now_ns() if self.present is None else self.present.since_ns
        self.present = Trouble(reason, since_ns) if reason else None
