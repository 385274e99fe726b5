"""DiskTrouble: a disk answers its guest with errors at present. Pure.

Invariant: trouble is a state that the disk's IO filter keeps, and no counter. It begins with an error, and ends once
calls of that kind are answered rightly again. The exception is a failed flush: what it lost is not known, so no later
flush succeeds until the disk is opened again.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from jetdr_core._core import FilterStats

__all__ = ["DiskTrouble"]

_CALLS = {1: "flushes", 2: "writes", 3: "reads"}
"""By :attr:`FilterStats.trouble`."""


@dataclass(frozen=True, slots=True)
class DiskTrouble:
    """``calls`` of a kind fail for ``reason`` since ``since_ns``. ``is_full``: for want of room."""

    calls: str
    reason: str
    since_ns: int
    is_full: bool

    @classmethod
    def of(cls, stats: FilterStats) -> DiskTrouble | None:
        """Return the trouble that ``stats`` tell of, if there is any."""
        if not stats.trouble:
            return None
        calls, number = _CALLS[stats.trouble], stats.trouble_errno
        is_full = calls == "writes" and number in (errno.ENOSPC, errno.EDQUOT)
        return cls(calls, os.strerror(number), stats.trouble_since_ns, is_full)
