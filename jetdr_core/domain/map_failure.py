"""MapFailure: a disk's dirty map is not kept on disk, though it should be. Pure.

Invariant: the map is still kept in memory, so guests go on, and a resync in this life copies no more than it must. What
the failure costs is a copy of the whole disk after the next unclean stop.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from jetdr_core._core import MapState

__all__ = ["MapFailure"]


@dataclass(frozen=True, slots=True)
class MapFailure:
    """The sidecar cannot be written, for ``reason``. ``since_ns`` is 0 if there never was one."""

    reason: str
    since_ns: int

    @classmethod
    def of(cls, state: MapState | None) -> MapFailure | None:
        """Return the failure that ``state`` tells of. A block device has no sidecar, which is none."""
        if state is None or state.failed_errno in {0, errno.ENODEV}:
            return None
        return cls(os.strerror(state.failed_errno), state.failed_since_ns)
