"""What a catalog holds, as JSON: docs/operations.md lists the keys.

Invariants: keys are added, never renamed. An instant appears twice, as ISO 8601 text and as nanoseconds since 1970 UTC
(``…_ns``). Both are null if there is none.
"""

from __future__ import annotations

from jetdr_core.catalog import Catalog, ChainBreak, DiskState, Gap, Interval, RecoveryPoint, TailLoss, iso_time
from jetdr_core.extent import DamagedExtent

__all__ = ["Json", "domain_json", "extent_json", "point_json", "time_json"]

Json = dict[str, object]


def time_json(name: str, time_ns: int | None) -> Json:
    """Return an instant under ``name`` and ``name_ns``. Both None and 0 stand for no instant."""
    return {name: iso_time(time_ns) if time_ns else None, f"{name}_ns": time_ns or None}


def point_json(point: RecoveryPoint) -> Json:
    return {"lsn": point.lsn, **time_json("time", point.time_ns), "name": point.name, "timeline": point.timeline}


def extent_json(extent: DamagedExtent) -> Json:
    return {
        "disk": extent.disk,
        "offset": extent.offset,
        "length": extent.length,
        "lsn_first": extent.lsn_first,
        "lsn_last": extent.lsn_last,
        "key": extent.key,
        "problem": extent.problem,
    }


def domain_json(catalog: Catalog) -> Json:
    """Return the keys with which every document about a domain begins."""
    return {
        "url": catalog.url,
        "domain": catalog.name,
        "domain_uuid": str(catalog.chain.domain_uuid),
        "timeline": catalog.chain.timeline,
        "epoch": catalog.chain.tail.epoch,
        "authenticity": str(catalog.authenticity),
        "consistent": catalog.history.consistent,
        "lsn_first": catalog.lsn_first,
        "lsn_last": catalog.lsn_last,
        "intervals": [_interval(interval) for interval in catalog.intervals()],
        "gaps": [_gap(gap) for gap in catalog.gaps],
        "latest_is_old": catalog.why_latest_is_old or None,
        "hole": _break_json(catalog.chain_break),
        "tail_loss": _loss_json(catalog.tail_loss),
        "disks": [_disk(disk) for disk in catalog.history.disks],
    }


def _interval(interval: Interval) -> Json:
    return {
        "lsn_first": interval.lsn_first,
        "lsn_last": interval.lsn_last,
        **time_json("time_first", interval.time_first_ns),
        **time_json("time_last", interval.time_last_ns),
    }


def _gap(gap: Gap) -> Json:
    return {
        "lsn_open": gap.lsn_open,
        "lsn_close": gap.lsn_close,
        **time_json("time_open", gap.time_open_ns),
        **time_json("time_close", gap.time_close_ns),
        "reason": gap.reason,
    }


def _break_json(end: ChainBreak | None) -> Json | None:
    if end is None:
        return None
    return {
        "number": end.number,
        "key": end.key,
        "problem": end.problem,
        "objects_after": end.objects_after,
    }


def _loss_json(loss: TailLoss | None) -> Json | None:
    return None if loss is None else {"key": loss.key, "lsn_last": loss.lsn_last, **time_json("time", loss.time_ns)}


def _disk(disk: DiskState) -> Json:
    return {
        "name": disk.name,
        "size_bytes": disk.size_bytes,
        "ready": disk.ready,
        "path": disk.path,
        "uuid": disk.uuid,
    }
