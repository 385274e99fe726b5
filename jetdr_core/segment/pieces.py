"""Cuts records into pieces: those that are stored in frames, and those that are only named as zeros. Pure.

Invariants: the pieces of a record cover it exactly, in order. Zeros become a ZERO piece, which is not stored, if the
whole record is zeros, or if 16 KiB or more of it are. The ends of such a run move inwards to 4 KiB of the disk. All
other payload, in record order, is one stream. It is cut into frames every 256 KiB, so every frame but the last is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jetdr_core._kernels import zero_runs
from jetdr_core.limits import BLOCK_BYTES, FRAME_BYTES, SECTOR_BYTES
from jetdr_core.record import RECORD, Kind, RecordBatch, RecordHeaders
from jetdr_core.segment.layout import ENTRY, NO_FRAME, ZERO_RUN_BYTES, EntryTable

_Column = npt.NDArray[np.int64]


class Captured(NamedTuple):
    """The records of several batches as one sequence. A *position* counts bytes across the payloads of all batches."""

    batches: Sequence[RecordBatch]
    headers: RecordHeaders
    position: _Column
    """Where each record's payload begins."""
    batch_position: _Column
    """Where the payload of each batch begins, and where the last one ends."""


class Slice(NamedTuple):
    """Consecutive payload bytes of one batch that lie in one frame."""

    frame: int
    batch: int
    start: int
    end: int


class Pieces(NamedTuple):
    """The entries of the index, and for each frame its slices of payload, in order."""

    entries: EntryTable
    slices: list[Slice]


class _Cut(NamedTuple):
    """Pieces as columns: row of the headers, position of the payload, length, position in the stream (-1: zeros)."""

    record: _Column
    position: _Column
    length: _Column
    stream: _Column


def captured(batches: Sequence[RecordBatch]) -> Captured:
    """Join ``batches`` into one sequence. ``ValueError`` unless they are consecutive, well-formed records."""
    headers = _joined([batch.headers for batch in batches])
    sizes = headers["payload_bytes"].astype(np.int64)
    _check_headers(headers, sizes)
    ends = np.cumsum(sizes)
    batch_position = np.cumsum([0, *(batch.payload.nbytes for batch in batches)], dtype=np.int64)
    last_rows = np.cumsum([len(batch.headers) for batch in batches])
    payload_ends = np.concatenate([[0], ends])[last_rows]
    if (payload_ends != batch_position[1:]).any():
        raise ValueError("a batch's payload is not as long as its headers say")
    return Captured(batches, headers, ends - sizes, batch_position)


def cut(records: Captured) -> Pieces:
    """Cut all WRITE and ZERO records into pieces."""
    stored = _split_at_frames(_number_stream(*_cut_out_zeros(records)))
    zeros = np.flatnonzero(records.headers["kind"] == Kind.ZERO)
    return Pieces(
        _entries(records.headers, _with_zero_records(stored, zeros, records)), _slices(stored, records.batch_position)
    )


def _joined(tables: Sequence[RecordHeaders]) -> RecordHeaders:
    if len(tables) == 1:
        return tables[0]
    # np.concatenate compares the fields of every pair of tables, and small commits make thousands of tables
    return np.frombuffer(b"".join(table.tobytes() for table in tables), RECORD)


def _check_headers(headers: RecordHeaders, sizes: _Column) -> None:
    lsn, length, kind = headers["lsn"], headers["length"], headers["kind"]
    if len(headers) == 0 or (np.diff(lsn) != 1).any() or lsn[0] == 0:
        raise ValueError("records are not consecutive LSNs")
    if (np.diff(headers["time_ns"]) < 0).any() or headers["time_ns"][0] < 0:
        raise ValueError("times decrease along the LSNs")
    write, zero = kind == Kind.WRITE, kind == Kind.ZERO
    wrong = (
        (write & (length != sizes))
        | (zero & (sizes != 0))
        | ((write | zero) & (length == 0))
        | (sizes % SECTOR_BYTES != 0)
    )
    if wrong.any():
        raise ValueError(f"record {lsn[wrong][0]}: length and payload do not agree")


def _cut_out_zeros(records: Captured) -> tuple[_Cut, npt.NDArray[np.bool_]]:
    """The WRITE records, cut around their zero runs, and for each piece whether it is zeros."""
    rows = np.flatnonzero(records.headers["kind"] == Kind.WRITE)
    start = records.position[rows]
    length = records.headers["length"][rows].astype(np.int64)
    run_start, run_end = _zero_runs(records, rows, start, length)
    if len(run_start) == 0:
        return _Cut(rows, start, length, start), np.zeros(len(rows), np.bool_)
    end = start + length
    points = np.unique(np.concatenate([start, run_start, run_end]))
    owner = np.searchsorted(start, points, "right") - 1
    inside = points < end[owner]
    points, owner = points[inside], owner[inside]
    piece_end = np.minimum(np.append(points[1:], end[-1]), end[owner])
    run = np.searchsorted(run_start, points, "right") - 1
    zero = (run >= 0) & (points < run_end[run])
    return _Cut(rows[owner], points, piece_end - points, points), zero


def _zero_runs(records: Captured, rows: _Column, start: _Column, length: _Column) -> tuple[_Column, _Column]:
    """The start and end positions of the zero runs that become pieces of their own."""
    flags = [zero_runs(batch.payload, SECTOR_BYTES) for batch in records.batches if batch.payload.nbytes]
    sector = np.flatnonzero(flags[0] if len(flags) == 1 else np.concatenate(flags)) if flags else np.zeros(0, np.int64)
    owner = np.searchsorted(start, sector * SECTOR_BYTES, "right") - 1
    inside = (owner >= 0) & (sector * SECTOR_BYTES < (start + length)[owner]) if len(rows) else owner >= 0
    sector, owner = sector[inside], owner[inside]
    if len(sector) == 0:
        return sector, sector
    breaks = np.flatnonzero((np.diff(sector) != 1) | (np.diff(owner) != 0))
    first, last = np.append(0, breaks + 1), np.append(breaks, len(sector) - 1)
    offset = records.headers["offset"][rows].astype(np.int64)[owner[first]]
    return _trimmed(
        sector[first] * SECTOR_BYTES,
        (sector[last] + 1) * SECTOR_BYTES,
        start[owner[first]],
        length[owner[first]],
        offset,
    )


def _trimmed(
    run_start: _Column, run_end: _Column, start: _Column, length: _Column, offset: _Column
) -> tuple[_Column, _Column]:
    """Move the ends of runs inwards to 4 KiB of the disk, except at the record's own ends. Drop runs that are short."""
    to_disk = offset - start
    begin = np.where(run_start == start, run_start, run_start + -(run_start + to_disk) % BLOCK_BYTES)
    end = np.where(run_end == start + length, run_end, run_end - (run_end + to_disk) % BLOCK_BYTES)
    keep = (end - begin >= ZERO_RUN_BYTES) | (end - begin == length)
    return begin[keep], end[keep]


def _number_stream(pieces: _Cut, zero: npt.NDArray[np.bool_]) -> _Cut:
    """Give each piece that is not zeros its position in the stream."""
    stored = np.where(zero, 0, pieces.length)
    return pieces._replace(stream=np.where(zero, -1, np.cumsum(stored) - stored))


def _split_at_frames(pieces: _Cut) -> _Cut:
    """Cut the pieces that cross the end of a frame."""
    first = pieces.stream // FRAME_BYTES
    last = np.where(pieces.stream < 0, first, (pieces.stream + pieces.length - 1) // FRAME_BYTES)
    count = last - first + 1
    if len(count) == 0 or count.max() == 1:
        return pieces
    row = np.repeat(np.arange(len(count)), count)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    stream, length = pieces.stream[row], pieces.length[row]
    begin = np.where(nth == 0, stream, (first[row] + nth) * FRAME_BYTES)
    end = np.where(nth == count[row] - 1, stream + length, (first[row] + nth + 1) * FRAME_BYTES)
    return _Cut(pieces.record[row], pieces.position[row] + begin - stream, end - begin, begin)


def _with_zero_records(pieces: _Cut, rows: _Column, records: Captured) -> _Cut:
    if len(rows) == 0:
        return pieces
    zeros = _Cut(rows, records.position[rows], records.headers["length"][rows].astype(np.int64), np.full(len(rows), -1))
    joined = _Cut(*(np.concatenate(columns) for columns in zip(pieces, zeros, strict=True)))
    order = np.argsort(joined.record, kind="stable")
    return _Cut(*(column[order] for column in joined))


def _entries(headers: RecordHeaders, pieces: _Cut) -> EntryTable:
    entries = np.empty(len(pieces.record), ENTRY)
    rows = headers[pieces.record]
    for name in ("lsn", "time_ns", "disk", "flags"):
        entries[name] = rows[name]
    zero = pieces.stream < 0
    within = pieces.position - _first_position(pieces)
    entries["offset"] = rows["offset"] + within.astype(np.uint64)
    entries["length"] = pieces.length
    entries["frame"] = np.where(zero, NO_FRAME, pieces.stream // FRAME_BYTES)
    entries["frame_offset"] = np.where(zero, 0, pieces.stream % FRAME_BYTES)
    entries["kind"] = np.where(zero, Kind.ZERO, Kind.WRITE)
    return entries


def _first_position(pieces: _Cut) -> _Column:
    """For each piece, the position of the first piece of its record."""
    first = np.searchsorted(pieces.record, pieces.record, "left")
    return pieces.position[first]


def _slices(pieces: _Cut, batch_position: _Column) -> list[Slice]:
    """Join stored pieces that lie one after the other in the same batch and frame."""
    stored = pieces.stream >= 0
    position, length = pieces.position[stored], pieces.length[stored]
    if len(position) == 0:
        return []
    frame = pieces.stream[stored] // FRAME_BYTES
    batch = np.searchsorted(batch_position, position, "right") - 1
    end = position + length
    breaks = np.flatnonzero((position[1:] != end[:-1]) | (np.diff(frame) != 0) | (np.diff(batch) != 0))
    first, last = np.append(0, breaks + 1), np.append(breaks, len(position) - 1)
    base = batch_position[batch[first]]
    columns = (frame[first], batch[first], position[first] - base, end[last] - base)
    return [Slice(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
