"""DomainStatus: what a protected domain says of itself. Plain values, safe to print and to serialise."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DiskStatus", "DomainStatus", "HostStatus"]


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """One disk. ``copied_bytes`` of ``copy_bytes``: how far its copy or resync is; 0 of 0 when none was owed.

    ``nbd_uri``: where guests find it, empty without a host component.

    ``unlogged_writes``: how many went to the primary alone, while logging was off; ``stall_s_max``: how long
    replication held up one write at most. Of a hosted disk all counters are as last heard, since it was first served.
    """

    name: str
    path: str
    nbd_uri: str
    size_bytes: int
    ready: bool
    copied_bytes: int
    copy_bytes: int
    writes: int
    write_bytes: int
    stalls: int
    stall_s_max: float
    failed_writes: int
    unlogged_writes: int
    unlogged_bytes: int


@dataclass(frozen=True, slots=True)
class HostStatus:
    """The host component, and logging: whether guests' writes are logged, why not, and how often they were not.

    ``restarts``: how often it was started again since the domain was opened; ``failure``: why not all disks are served,
    or logging is not switched on again, at present.
    """

    alive: bool
    restarts: int
    failure: str
    logging: bool
    off_reason: str
    off_times: int


@dataclass(frozen=True, slots=True)
class DomainStatus:
    """One domain at one moment.

    ``rpo_s`` is the age of the oldest acknowledged write that the store does not hold, also of one that went past the
    log; ``lsn_recovered`` the last LSN
    that the log held when the domain was opened; ``upload_latency_counts`` (by bucket of
    ``LATENCY_BOUNDS_S``) how long each object took to be stored. ``host``: None without a host
    component.
    """

    name: str
    store: str
    epoch: int
    timeline: int
    consistent: bool
    why_inconsistent: str
    lsn_recovered: int
    lsn_reserved: int
    lsn_durable: int
    lsn_uploaded: int
    rpo_s: float
    log_bytes: int
    log_used_bytes: int
    ring_used_bytes: int
    segments_uploaded: int
    payload_bytes_uploaded: int
    stored_bytes_uploaded: int
    retries: int
    upload_latency_counts: tuple[int, ...]
    upload_latency_sum_s: float
    paused: bool
    failure: str
    host: HostStatus | None
    disks: tuple[DiskStatus, ...]
