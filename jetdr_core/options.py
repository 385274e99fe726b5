"""DomainOptions: every setting of a protected domain, checked once."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import (
    RECORD_BYTES_MAX,
    RING_BYTES_DEFAULT,
    RING_SLOTS_DEFAULT,
    SEGMENT_AGE_S_DEFAULT,
    SEGMENT_BYTES_DEFAULT,
    SEGMENT_BYTES_MAX,
    STALL_LIMIT_S_DEFAULT,
)

__all__ = ["DomainOptions"]

_SEGMENT_BYTES_LIMIT = SEGMENT_BYTES_MAX - 2 * RECORD_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainOptions:
    """Settings of a protected domain. Sizes are in bytes, times in seconds."""

    segment_bytes: int = SEGMENT_BYTES_DEFAULT
    """A segment is sealed when it holds this much payload,"""
    segment_age_s: float = SEGMENT_AGE_S_DEFAULT
    """or when its oldest record is this old. This is most of the recovery point objective."""
    upload_workers: int = max(1, min(4, os.cpu_count() or 1))
    """Threads that compress."""
    puts_max: int = 4
    """Uploads in flight."""
    bandwidth_bytes_per_s: float | None = None
    """Limit of uploads. None for no limit."""
    verify_frames: bool = True
    """Decode each compressed frame, and compare it, before it is uploaded."""
    heartbeat_s: float = 5.0
    """How often an idle domain says that its newest recovery point is current."""
    store_check_s: float = 20.0
    """How often the owner sees whether the store still holds what it has stored there."""
    self_check_s: float = 300.0
    """How often digests of a few extents of each disk are recorded, for ``jetdr scrub`` to compare. 0: never."""
    stall_limit_s: float = STALL_LIMIT_S_DEFAULT
    """A write or flush waits at most this long for the replication log."""
    throttle_fill: float = 0.7
    """Writes are delayed while the log is fuller than this, so that it need not fill up. 1: they are not."""
    throttle_delay_max_s: float = 0.5
    """The longest such delay of one write."""
    throttle_wait_s: float = 3.0
    """The calls of a disk wait at most this long of each 10 s, for that and for a full log. Then they bypass it."""
    return_fill: float = 0.25
    """Logging that went off returns once the log has drained to this,"""
    return_load: float = 0.8
    """and guests write at most this part of what was shipped, so that a resync can win."""
    return_delay_max_s: float = 60.0
    """A return that fails is tried again after 1 s, 2 s and so on, up to this."""
    close_limit_s: float = 60.0
    """Closing waits at most this long for uploads. The rest stays in the log for the next opening."""
    map_folder: str = ""
    """The folder of the disks' dirty maps. Empty: each lies beside its disk, and a block device has none."""
    ring_bytes: int = RING_BYTES_DEFAULT
    """Payload that the ring holds between filter and log. A power of two."""
    ring_slots: int = RING_SLOTS_DEFAULT
    """Records that the ring holds between filter and log. A power of two."""

    def __post_init__(self) -> None:
        limits = {
            "segment_bytes": (4096, _SEGMENT_BYTES_LIMIT),
            "segment_age_s": (0.001, 3600),
            "upload_workers": (1, 64),
            "puts_max": (1, 64),
            "heartbeat_s": (0.01, 3600),
            "store_check_s": (0.01, 3600),
            "self_check_s": (0.0, 86400),
            "stall_limit_s": (0.0, 3600),
            "throttle_fill": (0.1, 1.0),
            "throttle_delay_max_s": (0.0, 3600),
            "throttle_wait_s": (0.0, 10.0),
            "return_fill": (0.25, 0.9),
            "return_load": (0.01, 1.0),
            "return_delay_max_s": (0.0, 86400),
            "close_limit_s": (0.0, 1e9),
            "ring_bytes": (2 << 16, 1 << 36),
            "ring_slots": (16, 1 << 22),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = limits.get(field.name, (None, None))
            if low is not None and high is not None and not low <= value <= high:
                raise InvalidRequest(f"option {field.name}={value!r} is not valid", hint=f"use {low} to {high}")
        for name in ("ring_bytes", "ring_slots"):
            value = getattr(self, name)
            if not isinstance(value, int) or value & (value - 1):
                raise InvalidRequest(f"option {name}={value!r} is not valid", hint="use a power of two")
        for name in ("segment_bytes", "upload_workers", "puts_max"):
            if not isinstance(getattr(self, name), int):
                raise InvalidRequest(f"option {name}={getattr(self, name)!r} is not valid", hint="use a whole number")
        if self.bandwidth_bytes_per_s is not None and not self.bandwidth_bytes_per_s >= 1:
            raise InvalidRequest(
                f"option bandwidth_bytes_per_s={self.bandwidth_bytes_per_s!r} is not valid",
                hint="use 1 or more, or None",
            )
