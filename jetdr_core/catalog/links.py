"""Links: the chain as a table with one row per object. Footers and summaries give the same rows. Pure.

Invariants: rows are in number order. Kind 0 is an object that does not chain. Only its number and size are kept.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jetdr_core.segment import ObjectKind, Trailer

ORPHAN = 0
"""``kind`` of an object that does not chain."""

LINK = np.dtype(
    [
        ("number", "<u8"),
        ("first_lsn", "<u8"),
        ("last_lsn", "<u8"),
        ("first_time_ns", "<i8"),
        ("last_time_ns", "<i8"),
        ("payload_bytes", "<u8"),
        ("object_bytes", "<u8"),
        ("index_offset", "<u8"),
        ("epoch", "<u8"),
        ("timeline", "<u4"),
        ("index_stored_bytes", "<u4"),
        ("index_raw_bytes", "<u4"),
        ("frame_count", "<u4"),
        ("entry_count", "<u4"),
        ("control_count", "<u4"),
        ("kind", "u1"),
        ("checksum", "V16"),
    ]
)

LinkTable = npt.NDArray[np.void]
"""Structured array of dtype :data:`LINK`."""

_FROM_TRAILER = [name for name in LINK.names or () if name not in {"number", "checksum"}]


def link(number: int, trailer: Trailer, checksum: bytes) -> tuple[object, ...]:
    """The row of an object that chains."""
    return (number, *(getattr(trailer, name) for name in _FROM_TRAILER), checksum)


def orphan_link(number: int, object_bytes: int) -> tuple[object, ...]:
    """The row of an object that does not chain."""
    blank = {"number": number, "object_bytes": object_bytes, "checksum": bytes(16)}
    return tuple(blank.get(name, 0) for name in LINK.names or ())


def chained(links: LinkTable) -> LinkTable:
    """The rows that are history: segments and epoch objects."""
    rows: LinkTable = links[links["kind"] != ORPHAN]
    return rows


def segments(links: LinkTable) -> LinkTable:
    """The rows that hold records."""
    rows: LinkTable = links[links["kind"] == ObjectKind.SEGMENT]
    return rows
