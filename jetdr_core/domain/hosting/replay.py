"""Replay: after an unclean stop with write-back, bring the primaries up to the end of the log.

Invariants: records go to the primaries in LSN order, through an IO filter without a ring, so that a replay changes a
primary as a guest's write does. The primaries are flushed before anything reads them. Only records after the log's last
gap boundary are replayed, because earlier ones are not newer than the primaries. Idempotent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import numpy as np

from jetdr_core._core import IoFilter
from jetdr_core.catalog import DiskState, DomainHistory
from jetdr_core.device import FileDevice
from jetdr_core.domain.primary import Primary
from jetdr_core.limits import RECORD_BYTES_MAX
from jetdr_core.record import Kind, RecordBatch
from jetdr_core.replication_log import ReplicationLog

__all__ = ["disks_of_replay", "flush", "replay"]

log_ = logging.getLogger(__name__)

READ_BYTES = 16 << 20


def replay(log: ReplicationLog, history: DomainHistory, primaries: Mapping[int, Primary]) -> int:
    """Write what the log holds, from its tail, to the primaries of the disks still protected; durable at return.

    The log's end must be durable, and nothing may concern a primary that is not open. Returns the records written.
    """
    lsn_from = _last_gap(log) + 1
    written = 0
    with ExitStack() as opened:
        present = [state for state in history.disks if primaries[state.disk].fault is None]
        disks = {state.disk: _open(state, primaries[state.disk], opened) for state in present}
        for records in _batches(log):
            written += _apply(records, disks, lsn_from)
        for disk in disks.values():
            disk.flush()
    log_.info("replayed %d records of the log to %d disks", written, len(disks))
    return written


def disks_of_replay(log: ReplicationLog) -> set[int]:
    """Return the numbers of the disks that a replay of the log writes to."""
    lsn_from = _last_gap(log) + 1
    disks: set[int] = set()
    for records in _batches(log):
        headers = records.headers
        data = (headers["kind"] == Kind.WRITE) | (headers["kind"] == Kind.ZERO)
        disks.update(headers["disk"][data & (headers["lsn"] >= lsn_from)].tolist())
    return disks


def flush(history: DomainHistory, primaries: Mapping[int, Primary]) -> list[int]:
    """Make durable what a host component that is gone has written to the primaries of the disks still protected.

    Returns the disks that failed: their flush would succeed the next time, and what they lost stay lost.
    """
    failed = []
    with ExitStack() as opened:
        for state in history.disks:
            if primaries[state.disk].fault is not None:
                continue
            disk = _open(state, primaries[state.disk], opened)
            try:
                disk.flush()
            except OSError as error:
                log_.error("disk %s: its primary cannot be flushed: %s", state.name, error)
                failed.append(state.disk)
    return failed


def _open(state: DiskState, primary: Primary, opened: ExitStack) -> IoFilter:
    """The disk without a ring: what is written goes to its primary alone."""
    device = FileDevice(primary.path, direct=False, lock=True)
    opened.callback(device.close)
    return IoFilter(
        None,
        device,
        disk=state.disk,
        size_bytes=state.size_bytes,
        record_bytes_max=RECORD_BYTES_MAX,
        stall_limit_s=0,
    )


def _batches(log: ReplicationLog) -> Iterator[RecordBatch]:
    cursor = log.tail
    while batches := log.read(cursor, payload_bytes_max=READ_BYTES):
        yield from (batch.records for batch in batches)
        cursor = batches[-1].end


def _last_gap(log: ReplicationLog) -> int:
    """LSN of the last GAP_OPEN in the log, 0 without one."""
    last = 0
    for records in _batches(log):
        opens = records.headers["lsn"][records.headers["kind"] == Kind.GAP_OPEN]
        last = int(opens[-1]) if len(opens) else last
    return last


def _apply(records: RecordBatch, disks: Mapping[int, IoFilter], lsn_from: int) -> int:
    written = 0
    ends = np.cumsum(records.headers["payload_bytes"], dtype=np.uint64).tolist()
    for header, end in zip(records.headers, ends, strict=True):
        disk = disks.get(int(header["disk"]))
        if disk is None or int(header["lsn"]) < lsn_from:
            continue
        offset, length = int(header["offset"]), int(header["length"])
        if header["kind"] == Kind.WRITE:
            disk.write(offset, records.payload[end - length : end])
        elif header["kind"] == Kind.ZERO:
            disk.zero(offset, length)
        else:
            continue
        written += 1
    return written
