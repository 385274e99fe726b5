"""Control records as bytes, and back: a table of their columns, then their JSON bodies. Pure.

An index and a summary hold control records in this form. Invariants: LSNs ascend, and every kind is known. A body is a
JSON object of at most ``CONTROL_BYTES_MAX`` bytes, and all lengths are checked before the first body is parsed. Records
with equal bodies share one, because LZ4 makes any number of them almost free to store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import Buffer

from jetdr_core.errors import DamagedObject
from jetdr_core.limits import CONTROL_BYTES_MAX
from jetdr_core.record import ControlRecord, Kind, control_body, control_payload
from jetdr_core.segment.columns import Table, pack_columns, unpack_columns
from jetdr_core.segment.layout import CONTROL

_ASCENDING = ("lsn", "time_ns")
_DATA_KINDS = (Kind.WRITE, Kind.ZERO)
_CONTROL_KINDS = np.array([kind for kind in Kind if kind not in _DATA_KINDS], np.uint8)


def encode_control(records: Sequence[ControlRecord]) -> bytes:
    """Encode the table and the bodies of ``records``."""
    bodies = [control_payload(record.body) for record in records]
    table = np.zeros(len(records), CONTROL)
    for row, (record, body) in enumerate(zip(records, bodies, strict=True)):
        table[row] = (record.lsn, record.time_ns, record.disk, len(body), record.kind)
    return pack_columns(table, _ASCENDING) + b"".join(bodies)


def decode_control(data: Buffer, count: int, key: str) -> list[ControlRecord]:
    """Decode ``count`` records. :class:`DamagedObject` names the object ``key``."""
    view = memoryview(data)
    if not count and not view:
        return []
    table_bytes = count * CONTROL.itemsize
    if table_bytes > len(view):
        raise DamagedObject(key, "control records", f"{count} records do not fit into {len(view)} bytes")
    table = unpack_columns(view[:table_bytes], CONTROL, count, _ASCENDING)
    _check(table, len(view) - table_bytes, key)
    ends = (table_bytes + np.cumsum(table["body_bytes"], dtype=np.int64)).tolist()
    starts = [table_bytes, *ends[:-1]]
    bodies: dict[bytes, dict[str, object]] = {}

    def body_of(stored: bytes) -> dict[str, object]:
        body = bodies.get(stored)
        if body is None:
            body = bodies[stored] = control_body(stored, key)
        return body

    return [
        ControlRecord(lsn, time_ns, Kind(kind), disk, body_of(bytes(view[start:end])))
        for (lsn, time_ns, disk, _, kind), start, end in zip(table.tolist(), starts, ends, strict=False)
    ]


def _check(table: Table, bodies_bytes: int, key: str) -> None:
    problem = ""
    if not np.isin(table["kind"], _CONTROL_KINDS).all():
        problem = f"kinds {sorted(set(table['kind'].tolist()))} are not all control records"
    elif (table["body_bytes"] > CONTROL_BYTES_MAX).any():
        problem = f"a body is longer than {CONTROL_BYTES_MAX} bytes"
    elif int(table["body_bytes"].sum(dtype=np.uint64)) != bodies_bytes:
        problem = f"the bodies do not take the {bodies_bytes} bytes after the table"
    elif len(table) > 1 and (table["lsn"][1:] <= table["lsn"][:-1]).any():
        problem = "LSNs do not ascend"
    if problem:
        raise DamagedObject(key, "control records", problem)
