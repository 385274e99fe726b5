"""Prometheus metrics of a DRVA, read from its sessions at each scrape. docs/operations.md explains each.

Invariants: a scrape never waits for a domain. It reads the status of each session, and what is not known at present has
no sample. Only this machine can scrape. The counters of a domain restart from 0 when the domain is opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import attrgetter

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from jetdr_core import __version__
from jetdr_core.domain import DiskStatus, DomainStatus, HostStatus
from jetdr_core.domain.status import Counted, disk_metrics
from jetdr_core.domain.status import Metric as DiskMetric
from jetdr_core.drva.alarm_log import AlarmState
from jetdr_core.drva.as_of import is_present
from jetdr_core.drva.config import Address
from jetdr_core.drva.session_state import SessionView, State
from jetdr_core.uploader import LATENCY_BOUNDS_S

__all__ = ["DrvaCollector", "MetricsServer"]

_OF_SESSION: dict[str, tuple[str, Callable[[SessionView], float | None]]] = {
    "jetdr_domain_open": ("1 while the domain is open", lambda view: view.state is State.OPEN),
    "jetdr_session_restarts_total": ("how often the domain failed and was opened again", lambda view: view.restarts),
    "jetdr_paused": ("1 while uploading is paused", lambda view: view.pause is not None),
    "jetdr_status_age_seconds": (
        "age of the last status of the domain",
        lambda view: None if view.last is None else view.last.age_s,
    ),
    "jetdr_rpo_seconds": ("how old the oldest write may be that the store lacks", lambda view: view.rpo_s),
    "jetdr_verified_lsn": (
        "newest LSN at which the store was seen to give back what the disks held",
        lambda view: view.scrubbed.verified_lsn or None,
    ),
    "jetdr_verified_time_seconds": (
        "when the digests of that LSN were recorded, in seconds since 1970",
        lambda view: view.scrubbed.verified_ns / 1e9 if view.scrubbed.verified_ns else None,
    ),
    "jetdr_scrub_time_seconds": (
        "when digests were last compared with the store, in seconds since 1970",
        lambda view: view.scrubbed.ended_ns / 1e9 if view.scrubbed.ended_ns else None,
    ),
}

_OF_DOMAIN: dict[str, tuple[str, Callable[[DomainStatus], float | None]]] = {
    "jetdr_consistent": ("1 while the present moment is a recovery point", lambda status: status.consistent),
    "jetdr_epoch": ("ownership generation", lambda status: status.epoch),
    "jetdr_lsn_reserved": ("last LSN given out", lambda status: status.lsn_reserved),
    "jetdr_lsn_durable": ("last LSN durable in the log", lambda status: status.lsn_durable),
    "jetdr_lsn_uploaded": ("last LSN that the store holds", lambda status: status.lsn_uploaded),
    "jetdr_log_bytes": ("capacity of the log section", lambda status: status.log_bytes),
    "jetdr_log_used_bytes": ("bytes of the log section in use", lambda status: status.log_used_bytes),
    "jetdr_throttle_bytes_per_second": (
        "what each disk may log; 0 if no write is delayed",
        lambda status: status.ladder.limit_bytes_per_s or 0,
    ),
    "jetdr_ring_used_bytes": ("payload between filter and log", lambda status: status.ring_used_bytes),
    "jetdr_ring_records": (
        "records not yet durable in the log",
        lambda status: status.lsn_reserved - status.lsn_durable,
    ),
    "jetdr_segments_uploaded_total": ("objects stored", lambda status: status.segments_uploaded),
    "jetdr_payload_bytes_uploaded_total": (
        "captured bytes in the stored objects",
        lambda status: status.payload_bytes_uploaded,
    ),
    "jetdr_stored_bytes_uploaded_total": ("bytes of the stored objects", lambda status: status.stored_bytes_uploaded),
    "jetdr_store_joined": ("0 while the domain is open without its store", lambda status: status.joined),
    "jetdr_clock_ahead_seconds": (
        "by how much the log's clock is ahead of the machine's, negative if it lags",
        lambda status: status.clock_ahead_s,
    ),
    "jetdr_clock_corrected_seconds": (
        "what the history takes off the times of records",
        lambda status: status.clock_corrected_s,
    ),
    "jetdr_store_unseen_seconds": (
        "for how long nobody has seen that the store holds the whole chain",
        lambda status: status.store_unseen_s,
    ),
    "jetdr_proven_time_seconds": (
        "the newest instant that the store proves, in seconds since 1970",
        lambda status: status.proven_ns / 1e9 if status.proven_ns else None,
    ),
    "jetdr_store_away_seconds": ("for how long the store has failed to answer", lambda status: status.store_away_s),
    "jetdr_store_retries_total": ("retries of store operations", lambda status: status.retries),
}

_OF_HOST: dict[str, tuple[str, Callable[[HostStatus], float]]] = {
    "jetdr_host_alive": ("1 while the host component runs", lambda host: host.alive),
    "jetdr_host_restarts_total": ("restarts of the host component", lambda host: host.restarts),
    "jetdr_logging": ("1 while guests' writes are logged", lambda host: host.logging),
    "jetdr_logging_off_total": ("how often logging was switched off", lambda host: host.off_times),
}

_OF_DISK: dict[str, tuple[DiskMetric, Callable[[DiskStatus], float]]] = {
    metric.name: (metric, attrgetter(field)) for field, metric in disk_metrics()
}


class DrvaCollector(Collector):
    """Makes metrics from the session views that ``views`` returns. ``alarms`` are the appliance's own."""

    def __init__(
        self,
        views: Callable[[], Sequence[SessionView]],
        started_s: float,
        alarms: Callable[[], Sequence[AlarmState]] = tuple,
    ) -> None:
        self._views = views
        self._alarms = alarms
        self._started_s = started_s

    def describe(self) -> Iterable[Metric]:
        """Return every family of metrics, without values."""
        return _families(())

    def collect(self) -> Iterator[Metric]:
        about = GaugeMetricFamily("jetdr_drva_info", "version of the DRVA", labels=["version"])
        about.add_metric([__version__], 1)
        yield about
        yield GaugeMetricFamily("jetdr_drva_start_time_seconds", "when it was started", value=self._started_s)
        alarms = (([alarm.name], 1.0) for alarm in self._alarms())
        yield _family("jetdr_drva_alarm", "1 for each present alarm of the DRVA itself", ["alarm"], alarms)
        yield from _families(self._views())


class MetricsServer:
    """Serves the metrics of a collector over HTTP on a loopback address, in threads of its own."""

    def __init__(self, address: Address, collector: Collector) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        self._server, self._thread = start_http_server(address.port, address.host, registry)
        self.address = Address(address.host, self._server.server_port)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _families(views: Sequence[SessionView]) -> Iterator[Metric]:
    statuses = [(view, view.status) for view in views if view.status is not None]
    for name, (text, of_session) in _OF_SESSION.items():
        yield _family(name, text, ["domain"], (([view.name], of_session(view)) for view in views))
    for name, (text, of_domain) in _OF_DOMAIN.items():
        yield _family(name, text, ["domain"], (([view.name], of_domain(status)) for view, status in statuses))
    hosts = [(view, status.host) for view, status in statuses if status.host is not None]
    for name, (text, of_host) in _OF_HOST.items():
        yield _family(name, text, ["domain"], (([view.name], of_host(host)) for view, host in hosts))
    for name, (metric, of_disk) in _OF_DISK.items():
        told = [(view, status) for view, status in statuses if _is_told(metric, status)]
        rows = (([view.name, disk.name], of_disk(disk)) for view, status in told for disk in status.disks)
        yield _family(name, metric.text, ["domain", "disk"], rows)
    yield _latency(statuses)
    states = (([view.name, view.condition.state.value], 1.0) for view in views if view.condition.is_present)
    yield _family("jetdr_domain_state", "1 for the present state, and no other is there", ["domain", "state"], states)
    alarms = (([view.name, alarm.name], 1) for view in views for alarm in view.alarms)
    yield _family("jetdr_alarm", "1 for each present alarm", ["domain", "alarm"], _by_labels(alarms).items())
    begun = (([view.name, alarm.name], alarm.since_ns / 1e9) for view in views for alarm in reversed(view.alarms))
    yield _family("jetdr_alarm_start_time_seconds", "when it began", ["domain", "alarm"], _by_labels(begun).items())


def _is_told(metric: DiskMetric, status: DomainStatus) -> bool:
    """Whether the value is known at present. What a host component counts is not while it does not report."""
    return status.host is None or not isinstance(metric, Counted) or is_present(status.host.counted_age_s)


def _by_labels(rows: Iterable[tuple[list[str], float]]) -> dict[tuple[str, ...], float]:
    """Return one row for each set of labels: several disks may cause the same alarm."""
    return {tuple(labels): value for labels, value in rows}


def _family(name: str, text: str, labels: list[str], rows: Iterable[tuple[Sequence[str], float | None]]) -> Metric:
    """Return a family with a sample for each row whose value is known."""
    family = (CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily)(name, text, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, float(value))
    return family


def _latency(statuses: Iterable[tuple[SessionView, DomainStatus]]) -> Metric:
    family = HistogramMetricFamily(
        "jetdr_upload_seconds", "time to store an object, retries included", labels=["domain"]
    )
    bounds = [*(str(bound) for bound in LATENCY_BOUNDS_S), "+Inf"]
    for view, status in statuses:
        counts = accumulate(status.upload_latency_counts)
        buckets = [(bound, float(count)) for bound, count in zip(bounds, counts, strict=True)]
        family.add_metric([view.name], buckets, status.upload_latency_sum_s)
    return family
