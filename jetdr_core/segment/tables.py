"""Whether the tables of an untrusted index can be true, in words. Pure.

The rows are checked in ``native/kernels/tables.c``, because thousands of indexes with a row each must not take longer
than one index with thousands of rows.

Invariants of checked tables:

- The frames fill their part of the object.
- Every entry is whole sectors inside a disk. Unless it is zeros, it lies inside its frame.
- Every LSN of the trailer's range occurs, as one control record or as the consecutive pieces of one record.
- Times never decrease along LSN.
"""

from __future__ import annotations

from collections.abc import Sequence

from jetdr_core._kernels import check_entries, check_frames, check_records
from jetdr_core.errors import DamagedObject
from jetdr_core.limits import DISK_BYTES_MAX, FRAME_BYTES
from jetdr_core.record import ControlRecord
from jetdr_core.segment.layout import HEADER_BYTES, EntryTable, FrameTable
from jetdr_core.segment.trailer import Trailer

_PROBLEMS = (
    "",
    f"a frame is empty or longer than {FRAME_BYTES} bytes",
    "a frame takes more bytes stored than raw",
    "frames do not fill {stored_bytes} bytes",
    "a codec is unknown, or a frame that is stored raw has two sizes",
    "an extent is empty or not whole sectors",
    "an extent lies beyond the largest disk",
    "kind and frame contradict each other",
    "a frame beyond the {frame_count} there are",
    "a piece reaches beyond its frame",
    "LSNs decrease",
    "pieces of one record do not fit together",
    "records are not LSN {first_lsn} to {last_lsn}, each once",
    "times decrease, or are not the trailer's",
)
"""In the order of ``enum jdr_table_problem``."""


def check_tables(
    frames: FrameTable, entries: EntryTable, control: Sequence[ControlRecord], trailer: Trailer, key: str
) -> None:
    """Raise :class:`DamagedObject` about the object ``key`` unless its tables can be true."""
    problem = check_frames(frames, HEADER_BYTES, trailer.stored_bytes, FRAME_BYTES)
    if problem:
        raise DamagedObject(key, "frame table", _in_words(problem, trailer))
    problem = check_entries(entries, frames, DISK_BYTES_MAX) or check_records(
        entries,
        [(record.lsn, record.time_ns) for record in control],
        (trailer.first_lsn, trailer.last_lsn),
        (trailer.first_time_ns, trailer.last_time_ns),
    )
    if problem:
        raise DamagedObject(key, "entries", _in_words(problem, trailer))


def _in_words(problem: int, trailer: Trailer) -> str:
    return _PROBLEMS[problem].format_map(trailer._asdict())
