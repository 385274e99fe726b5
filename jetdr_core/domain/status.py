"""DomainStatus: what a protected domain says of itself. Plain values, safe to print and to serialise."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DiskStatus", "DomainStatus"]


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """One disk. ``copied_bytes`` of ``copy_bytes``: how far its copy or resync is; 0 of 0 when none was owed."""

    name: str
    path: str
    size_bytes: int
    ready: bool
    copied_bytes: int
    copy_bytes: int
    writes: int
    write_bytes: int
    stalls: int
    failed_writes: int


@dataclass(frozen=True, slots=True)
class DomainStatus:
    """One domain at one moment.

    ``rpo_s`` is the age of the oldest acknowledged write that the store does not hold; ``lsn_recovered`` the last LSN
    that the log held when the domain was opened; ``upload_latency_counts`` (by bucket of
    ``LATENCY_BOUNDS_S``) how long each object took to be stored.
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
    disks: tuple[DiskStatus, ...]
