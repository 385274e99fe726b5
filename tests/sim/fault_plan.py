"""FaultPlan: the n-th call of devices and store fails, once or from then on.

Invariant: a plan without a number counts the calls and fails none, so that every call of a story can be failed in turn.
"""

from __future__ import annotations

import enum
import errno
from collections import Counter

__all__ = ["Fault", "FaultPlan"]


class Fault(enum.Enum):
    """What goes wrong. A device reports EIO, or ENOSPC for :attr:`NO_ROOM`. A failed write may be done in part."""

    FAILED = "it fails, transient on a store"
    NO_ROOM = "a write or flush fails with ENOSPC"
    LOST_ANSWER = "the store does it, and the answer is lost"
    DENIED = "the store refuses it for good"

    @property
    def errno(self) -> int:
        return errno.ENOSPC if self is Fault.NO_ROOM else errno.EIO


class FaultPlan:
    """Call number ``number`` (from 1) meets ``fault``, and with ``for_good`` all later ones at the same place too."""

    def __init__(self, number: int = 0, fault: Fault = Fault.FAILED, *, for_good: bool = False) -> None:
        self.calls: list[tuple[str, str]] = []
        self.failed: Counter[str] = Counter()
        self._number = number
        self._fault = fault
        self._for_good = for_good
        self._place = ""

    def meet(self, place: str, call: str) -> Fault | None:
        """Note a call, and say what happens to it."""
        self.calls.append((place, call))
        if len(self.calls) == self._number:
            self._place = place
        elif not (self._for_good and place == self._place):
            return None
        if self._fault is Fault.NO_ROOM and call == "read":
            return None
        self.failed[f"{place} {call}"] += 1
        return self._fault

    def end(self) -> None:
        """Let no call fail any more."""
        self._number, self._for_good = 0, False
