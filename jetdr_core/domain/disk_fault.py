"""DiskFault: why a disk of an open domain is not served. One disk's fault is that disk's: all others are served.

Invariant: a disk that failed is owed a copy of its data, unless its guest has used it all the time. So the domain is
not consistent until the disk is back and copied, or no longer protected.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from jetdr_core.errors import JetdrError
from jetdr_core.file_making import told

__all__ = ["DiskFault"]

REMEDY = "bring it back, or say where it is now (jetdr move-disk), or stop protecting it (jetdr unprotect)"


@dataclass(frozen=True, slots=True)
class DiskFault:
    """``since_ns`` is when it was found. ``is_named``: the caller says where the disk lies, so it is tried again."""

    reason: str
    remedy: str
    since_ns: int
    is_named: bool = True

    @classmethod
    def of(cls, error: Exception, earlier: DiskFault | None = None) -> DiskFault:
        """Return the fault that ``error`` is, of a disk with the ``earlier`` one."""
        since_ns = time.time_ns() if earlier is None else earlier.since_ns
        if isinstance(error, FileNotFoundError):
            return cls("there is nothing at its path; is the file system mounted?", REMEDY, since_ns)
        if not isinstance(error, JetdrError):
            return cls(told(error), REMEDY, since_ns)
        return cls(error.message, f"{error.hint}; {REMEDY}" if error.hint else REMEDY, since_ns)

    @classmethod
    def unnamed(cls, hint_path: str) -> DiskFault:
        """Return the fault of a disk that the caller does not name. ``hint_path`` is where the store says it lies."""
        return cls(
            f"the configuration does not name it, so it is not opened; the store says that it lies at {hint_path!r}",
            "say where it is (jetdr move-disk), if it is to be protected; or stop protecting it (jetdr unprotect)",
            time.time_ns(),
            is_named=False,
        )

    @classmethod
    def moving(cls, path: str) -> DiskFault:
        """Return the fault of a disk that an operator moves to ``path``, until it is served from there."""
        return cls(f"it is being moved to {path}", REMEDY, time.time_ns())
