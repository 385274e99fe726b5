"""DomainStatus: what a protected domain reports of itself. Plain values, safe to print and to serialise.

Invariant: a field of :class:`DiskStatus` names, once, the metric that shows it and the counter of the disk's IO filter
that it is. A new counter that status and metrics are to show is one more field here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from jetdr_core._core import FilterStats
from jetdr_core.domain.disk_fault import DiskFault
from jetdr_core.domain.disk_trouble import DiskTrouble
from jetdr_core.domain.files_in_use import LostFile
from jetdr_core.domain.ladder import LadderStatus
from jetdr_core.domain.map_failure import MapFailure
from jetdr_core.domain.trouble import Trouble

__all__ = ["Counted", "DiskStatus", "DomainStatus", "HostStatus", "Metric", "counters", "disk_metrics"]


@dataclass(frozen=True, slots=True)
class Metric:
    """The metric that shows a field, with its help text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Counted(Metric):
    """A field that is the counter ``of`` of :class:`FilterStats` (by default of the field's name), divided."""

    of: str = ""
    divisor: int = 1


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """One disk. Its file or device had ``primary_bytes`` when it was last looked at, and ``size_bytes`` are protected.

    ``copied_bytes`` of ``copy_bytes`` says how far its copy has come, and is 0 of 0 if none was owed.

    ``fault`` says why it is ``failed``, ``trouble`` why it is ``in_trouble``, and ``map_failure`` why its dirty map has
    ``map_failed``. Without a dirty map all of it is ``marked_bytes``. ``nbd_uri``: where guests find the
    disk, empty without a host component. A hosted disk's counters are as last reported by the host component, since it
    first served the disk.
    """

    name: str
    path: str
    nbd_uri: str
    size_bytes: Annotated[int, Metric("jetdr_disk_bytes", "size of the disk")]
    primary_bytes: Annotated[int, Metric("jetdr_disk_primary_bytes", "size of its file or device, as last seen")]
    ready: Annotated[bool, Metric("jetdr_disk_ready", "1 when its initial copy is complete")]
    failed: Annotated[bool, Metric("jetdr_disk_failed", "1 while it is missing, does not fit, or is not configured")]
    fault: DiskFault | None
    in_trouble: Annotated[bool, Metric("jetdr_disk_in_trouble", "1 while it answers its guest with errors")]
    trouble: DiskTrouble | None
    copied_bytes: Annotated[int, Metric("jetdr_disk_copied_bytes", "bytes of its current or last copy that are logged")]
    copy_bytes: Annotated[int, Metric("jetdr_disk_copy_bytes", "bytes of its current or last copy")]
    marked_bytes: Annotated[int, Metric("jetdr_disk_marked_bytes", "bytes that an unclean stop would have copied")]
    owed_bytes: Annotated[int, Metric("jetdr_disk_owed_bytes", "bytes that only a copy makes equal to the log")]
    map_failed: Annotated[bool, Metric("jetdr_disk_map_failed", "1 while its dirty map cannot be written")]
    map_failure: MapFailure | None
    writes: Annotated[int, Counted("jetdr_disk_writes_total", "writes of the guest")]
    write_bytes: Annotated[int, Counted("jetdr_disk_written_bytes_total", "bytes of these writes")]
    stalls: Annotated[int, Counted("jetdr_disk_stalls_total", "writes that waited for room in ring or log")]
    stall_s_max: Annotated[
        float,
        Counted(
            "jetdr_disk_stall_seconds_max",
            "longest time that replication held up a write",
            of="stall_ns_max",
            divisor=10**9,
        ),
    ]
    failed_writes: Annotated[int, Counted("jetdr_disk_failed_writes_total", "writes that the primary failed")]
    unlogged_writes: Annotated[
        int, Counted("jetdr_disk_unlogged_writes_total", "writes that bypassed the log while logging was off")
    ]
    unlogged_bytes: Annotated[int, Counted("jetdr_disk_unlogged_bytes_total", "bytes of these writes")]
    throttled: Annotated[int, Counted("jetdr_disk_throttled_writes_total", "writes that backpressure delayed")]
    throttled_s: Annotated[
        float,
        Counted(
            "jetdr_disk_throttled_seconds_total", "delays of these writes, added up", of="throttled_ns", divisor=10**9
        ),
    ]


def disk_metrics() -> Iterator[tuple[str, Metric]]:
    """The fields of :class:`DiskStatus` that metrics show."""
    for name, hint in get_type_hints(DiskStatus, include_extras=True).items():
        for metric in getattr(hint, "__metadata__", ()):
            yield name, metric


def counters(stats: FilterStats) -> dict[str, Any]:
    """The fields of :class:`DiskStatus` that the disk's filter counts."""
    return {name: _shown(getattr(stats, of), divisor) for name, (of, divisor) in _COUNTED.items()}


_COUNTED = {name: (metric.of or name, metric.divisor) for name, metric in disk_metrics() if isinstance(metric, Counted)}


def _shown(value: int, divisor: int) -> int | float:
    return value if divisor == 1 else value / divisor


@dataclass(frozen=True, slots=True)
class HostStatus:
    """The host component, and logging: whether guests' writes are logged, why not, and how often they were not.

    ``restarts`` counts restarts of the host component since the domain was opened. ``failure`` says why not all disks
    are served at present, or why logging is not switched on again. ``unstamped`` says which disks did not take their
    stamps, and why. ``counted_age_s`` is how old the counters of the disks are, and None if none was reported yet.
    """

    alive: bool
    restarts: int
    failure: str
    logging: bool
    off_reason: str
    off_times: int
    unstamped: str
    counted_age_s: float | None


@dataclass(frozen=True, slots=True)
class DomainStatus:
    """One domain at one moment.

    ``rpo_s`` is the age of the oldest acknowledged write that the store does not hold, writes that bypassed the log
    included. ``lsn_recovered`` is the last LSN that the log held when the domain was opened. ``upload_latency_counts``
    says how long objects took to be stored, by bucket of ``LATENCY_BOUNDS_S``. ``failure`` is what stopped the upload
    for good, and ``store_lost`` says that it is a loss in the store. ``forged`` names what fails its checks with the
    domain's key, and is empty if nothing does. ``store_away_s`` is for how long the store has failed to answer, and
    ``store_away`` why. ``store_refused`` says what a store that answers has refused since ``store_refused_since_ns``,
    and is empty if it refuses nothing. ``host`` is None without a host component. ``clock`` says why record times are
    not the machine's, and is empty if they are. ``clock_ahead_s`` is by how much the log's clock is ahead of the
    machine's, negative if it lags, and ``clock_corrected_s`` what the history takes off its times beside that.
    ``changed`` says which disks somebody else had changed when the domain was opened, and is empty if none. ``log_cut``
    says where the log was cut at that opening although whole batches lie after it, and is empty if none do.
    ``log_trouble`` says why the log takes nothing at present, ``state_trouble`` why the state folder cannot be written,
    and ``lost_files`` which files in use their paths do not lead to any more.

    ``joined`` is False while the domain is open without its store, which was away at ``unjoined_since_ns``. Nothing is
    uploaded then. ``lsn_uploaded`` is what the store held when it was last seen, and ``rpo_s`` counts all that it may
    lack.

    ``store_unseen_s`` is for how long nobody has seen that the store holds the whole chain, and None before the domain
    is joined. After a loss nothing is known to be in the store: ``lsn_uploaded`` is 0, ``rpo_s`` is at least
    ``store_unseen_s``, and the domain is not ``consistent``. ``proven_ns`` is the newest instant that the store proves
    by a record or a heartbeat, and 0 if that is not known. ``heartbeat_refused`` says why the store has refused
    heartbeats since ``heartbeat_refused_since_ns``, and is empty if it takes them.
    """

    name: str
    store: str
    joined: bool
    unjoined_since_ns: int
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
    store_lost: bool
    store_unseen_s: float | None
    proven_ns: int
    heartbeat_refused: str
    heartbeat_refused_since_ns: int
    forged: str
    store_away_s: float
    store_away: str
    store_refused: str
    store_refused_since_ns: int
    ladder: LadderStatus
    host: HostStatus | None
    clock: str
    clock_ahead_s: float
    clock_corrected_s: float
    changed: str
    log_cut: str
    log_trouble: Trouble | None
    state_trouble: Trouble | None
    lost_files: tuple[LostFile, ...]
    disks: tuple[DiskStatus, ...]
