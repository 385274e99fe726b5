# cython: language_level=3, freethreading_compatible=True, autotestdict=False
"""Python face of the batch kernels (native/kernels). The contract is in jetdr_core/_kernels.pyi.

Here is what an argument must look like and which error it gives; the loops are in scan.c, scatter.c, tables.c and
interval_map.c.
A batch is one call, and the GIL is released while it runs, except over tables that take less time than getting the GIL
back. Invariant: every length and offset is checked before the
first byte is read or written.
"""

cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import os
import threading

import numpy as np

__all__ = [
    "IntervalMap",
    "check_entries",
    "check_frames",
    "check_records",
    "gather_digest",
    "scatter_write",
    "unpack_columns",
    "verify_payloads",
    "zero_runs",
]


cdef extern from "kernels/scan.h" nogil:
    enum: JDR_SCAN_RECORD_BYTES
    int64_t jdr_scan_payloads(const uint8_t *headers, size_t count, const uint8_t *payload, size_t payload_bytes)
    void jdr_scan_zeros(const uint8_t *payload, size_t payload_bytes, size_t block_bytes, uint8_t *flags)


cdef extern from "kernels/scatter.h" nogil:
    struct jdr_piece:
        pass
    int64_t jdr_scatter_check(const jdr_piece *pieces, size_t count, size_t source_bytes)
    int jdr_scatter_write(int fd, const uint8_t *source, const jdr_piece *pieces, size_t count, uint64_t *digest)
    int jdr_gather_digest(int fd, const jdr_piece *pieces, size_t count, uint64_t *digest)


cdef extern from "kernels/interval_map.h" nogil:
    struct jdr_interval_node:
        pass
    struct jdr_uncovered:
        pass
    struct jdr_uncovered_list:
        jdr_uncovered *rows
        size_t count
    struct jdr_interval_map:
        uint32_t capacity
        uint32_t count
        uint64_t covered_bytes
    void jdr_interval_map_init(jdr_interval_map *map)
    void jdr_interval_map_free(jdr_interval_map *map)
    int64_t jdr_interval_check(const uint64_t *offsets, const uint64_t *lengths, size_t count)
    int jdr_interval_overlay(
        jdr_interval_map *map, const uint64_t *offsets, const uint64_t *lengths, size_t count, jdr_uncovered_list *out
    )
    void jdr_interval_list(const jdr_interval_map *map, uint64_t *rows)
    void jdr_uncovered_free(jdr_uncovered_list *list)


cdef extern from "kernels/tables.h" nogil:
    struct jdr_frame_row:
        pass
    struct jdr_entry_row:
        pass
    struct jdr_frame_table:
        const uint8_t *rows
        size_t row_bytes
        size_t count
    struct jdr_record_range:
        uint64_t lsn_first
        uint64_t lsn_last
        int64_t time_first_ns
        int64_t time_last_ns
    void jdr_unpack_column(
        const uint8_t *planes, size_t count, size_t width, int ascending, uint8_t *rows, size_t row_bytes
    )
    int jdr_check_frames(const jdr_frame_table *frames, uint64_t start, uint64_t stored_bytes, uint32_t raw_bytes_max)
    int jdr_check_entries(
        const jdr_entry_row *entries, size_t count, const jdr_frame_table *frames, uint64_t disk_bytes_max
    )
    int jdr_check_records(
        const jdr_entry_row *entries,
        size_t count,
        const uint64_t *control_lsn,
        const int64_t *control_time_ns,
        size_t control_count,
        const jdr_record_range *range,
    )


_UNCOVERED = np.dtype([("source", "<u8"), ("offset", "<u8"), ("length", "<u8")])
_INTERVAL = np.dtype([("start", "<u8"), ("end", "<u8")])


cdef void copy_rows(object array, const void *rows, size_t byte_count) except *:
    cdef Py_buffer view
    if byte_count == 0:
        return
    PyObject_GetBuffer(array, &view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
    assert <size_t>view.len == byte_count
    memcpy(view.buf, rows, byte_count)
    PyBuffer_Release(&view)


cdef size_t row_count(Py_buffer *view, size_t row_bytes, str what) except? <size_t>-1:
    """The number of rows in a contiguous array; ValueError if a row has not ``row_bytes`` bytes."""
    if <size_t>view.itemsize != row_bytes:
        raise ValueError(f"{what} rows of {view.itemsize} bytes; {row_bytes} expected")
    return <size_t>view.len // row_bytes


def verify_payloads(headers, payload):
    cdef Py_buffer rows
    cdef Py_buffer data
    cdef size_t count
    cdef int64_t bad
    PyObject_GetBuffer(headers, &rows, PyBUF_C_CONTIGUOUS)
    try:
        count = row_count(&rows, JDR_SCAN_RECORD_BYTES, "record")
        PyObject_GetBuffer(payload, &data, PyBUF_SIMPLE)
        try:
            with nogil:
                bad = jdr_scan_payloads(<const uint8_t *>rows.buf, count, <const uint8_t *>data.buf, <size_t>data.len)
        finally:
            PyBuffer_Release(&data)
    finally:
        PyBuffer_Release(&rows)
    return bad


def zero_runs(payload, Py_ssize_t block_bytes):
    cdef Py_buffer data
    cdef Py_buffer target
    if block_bytes <= 0:
        raise ValueError(f"block_bytes is {block_bytes}; it must be positive")
    PyObject_GetBuffer(payload, &data, PyBUF_SIMPLE)
    try:
        flags = np.empty(data.len // block_bytes + (data.len % block_bytes != 0), np.uint8)
        if data.len:
            PyObject_GetBuffer(flags, &target, PyBUF_WRITABLE)
            with nogil:
                jdr_scan_zeros(<const uint8_t *>data.buf, <size_t>data.len, <size_t>block_bytes, <uint8_t *>target.buf)
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&data)
    return flags


def scatter_write(int fd, source, pieces, uint64_t digest=0):
    cdef Py_buffer data
    cdef Py_buffer rows
    cdef size_t count
    cdef int64_t bad
    cdef int error = 0
    PyObject_GetBuffer(source, &data, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(pieces, &rows, PyBUF_C_CONTIGUOUS)
        try:
            count = row_count(&rows, sizeof(jdr_piece), "piece")
            with nogil:
                bad = jdr_scatter_check(<const jdr_piece *>rows.buf, count, <size_t>data.len)
                if bad < 0:
                    error = jdr_scatter_write(
                        fd, <const uint8_t *>data.buf, <const jdr_piece *>rows.buf, count, &digest
                    )
        finally:
            PyBuffer_Release(&rows)
    finally:
        PyBuffer_Release(&data)
    if bad >= 0:
        raise ValueError(f"piece {bad} leaves the source or the range of file offsets")
    if error:
        raise OSError(error, os.strerror(error))
    return digest


def gather_digest(int fd, pieces, uint64_t digest=0):
    cdef Py_buffer rows
    cdef size_t count
    cdef int error
    PyObject_GetBuffer(pieces, &rows, PyBUF_C_CONTIGUOUS)
    try:
        count = row_count(&rows, sizeof(jdr_piece), "piece")
        with nogil:
            error = jdr_gather_digest(fd, <const jdr_piece *>rows.buf, count, &digest)
    finally:
        PyBuffer_Release(&rows)
    if error:
        raise OSError(error, os.strerror(error))
    return digest


cdef enum:
    COLUMNS_MAX = 32
    SMALL_BYTES = 64 << 10  # not worth giving the GIL away: another thread may keep it for milliseconds


cdef struct column_place:
    size_t offset
    size_t width
    int is_ascending


cdef void unpack_all(
    const uint8_t *planes, const column_place *columns, size_t column_count, size_t count, uint8_t *rows, size_t row_bytes
) noexcept nogil:
    cdef size_t i
    for i in range(column_count):
        jdr_unpack_column(
            planes + columns[i].offset * count,
            count,
            columns[i].width,
            columns[i].is_ascending,
            rows + columns[i].offset,
            row_bytes,
        )


cdef size_t get_columns(object dtype, object ascending, column_place *columns) except 0:
    """The columns of a row, which must lie back to back, in their order."""
    cdef size_t count = 0
    cdef size_t start = 0
    for name, (kind, place) in sorted(dtype.fields.items(), key=_place_of_field):
        width, is_ascending = kind.itemsize, name in ascending
        if count == COLUMNS_MAX or place != start or (is_ascending and width > 8):
            raise ValueError(f"column {name} of {width} bytes at {place} cannot be unpacked")
        columns[count].offset, columns[count].width, columns[count].is_ascending = place, width, is_ascending
        start += <size_t>width
        count += 1
    if start != <size_t>dtype.itemsize:
        raise ValueError(f"columns of {start} bytes do not fill rows of {dtype.itemsize} bytes")
    return count


def unpack_columns(data, rows, ascending):
    cdef Py_buffer planes
    cdef Py_buffer table
    cdef column_place columns[COLUMNS_MAX]
    cdef size_t column_count = get_columns(rows.dtype, ascending, columns)
    cdef size_t count, row_bytes
    PyObject_GetBuffer(data, &planes, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(rows, &table, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
        try:
            row_bytes = <size_t>table.itemsize
            count = <size_t>table.len // row_bytes
            if planes.len != table.len:
                raise ValueError(f"{planes.len} bytes of planes are not {count} rows of {row_bytes} bytes")
            if table.len <= SMALL_BYTES:
                unpack_all(<const uint8_t *>planes.buf, columns, column_count, count, <uint8_t *>table.buf, row_bytes)
            else:
                with nogil:
                    unpack_all(
                        <const uint8_t *>planes.buf, columns, column_count, count, <uint8_t *>table.buf, row_bytes
                    )
        finally:
            PyBuffer_Release(&table)
    finally:
        PyBuffer_Release(&planes)


def _place_of_field(field):
    return field[1][1]


cdef int get_frames(object frames, Py_buffer *view, jdr_frame_table *table) except -1:
    """A frame table, whose rows may be longer than the columns that are looked at. The caller releases ``view``."""
    PyObject_GetBuffer(frames, view, PyBUF_C_CONTIGUOUS)
    if <size_t>view.itemsize < sizeof(jdr_frame_row):
        row_bytes = view.itemsize
        PyBuffer_Release(view)
        raise ValueError(f"frame rows of {row_bytes} bytes; {sizeof(jdr_frame_row)} or more expected")
    table.rows = <const uint8_t *>view.buf
    table.row_bytes = <size_t>view.itemsize
    table.count = <size_t>view.len // table.row_bytes
    return 0


def check_frames(frames, uint64_t start, uint64_t stored_bytes, uint32_t raw_bytes_max):
    cdef Py_buffer view
    cdef jdr_frame_table table
    cdef int problem
    get_frames(frames, &view, &table)
    problem = jdr_check_frames(&table, start, stored_bytes, raw_bytes_max)
    PyBuffer_Release(&view)
    return problem


def check_entries(entries, frames, uint64_t disk_bytes_max):
    cdef Py_buffer rows
    cdef Py_buffer view
    cdef jdr_frame_table table
    cdef size_t count
    cdef int problem
    PyObject_GetBuffer(entries, &rows, PyBUF_C_CONTIGUOUS)
    try:
        count = row_count(&rows, sizeof(jdr_entry_row), "entry")
        get_frames(frames, &view, &table)
        problem = jdr_check_entries(<const jdr_entry_row *>rows.buf, count, &table, disk_bytes_max)
        PyBuffer_Release(&view)
    finally:
        PyBuffer_Release(&rows)
    return problem


def check_records(entries, control, lsns, times_ns):
    cdef Py_buffer rows
    cdef size_t count
    cdef int problem
    cdef jdr_record_range range
    cdef const uint64_t[::1] control_lsn = np.array([lsn for lsn, _ in control], np.uint64)
    cdef const int64_t[::1] control_time_ns = np.array([time_ns for _, time_ns in control], np.int64)
    cdef size_t control_count = control_lsn.shape[0]
    range.lsn_first, range.lsn_last = lsns
    range.time_first_ns, range.time_last_ns = times_ns
    PyObject_GetBuffer(entries, &rows, PyBUF_C_CONTIGUOUS)
    try:
        count = row_count(&rows, sizeof(jdr_entry_row), "entry")
        problem = jdr_check_records(
            <const jdr_entry_row *>rows.buf,
            count,
            &control_lsn[0] if control_count else NULL,
            &control_time_ns[0] if control_count else NULL,
            control_count,
            &range,
        )
    finally:
        PyBuffer_Release(&rows)
    return problem


@cython.final
cdef class IntervalMap:
    cdef jdr_interval_map map
    cdef object in_use

    def __cinit__(self):
        jdr_interval_map_init(&self.map)
        self.in_use = threading.Lock()

    def __dealloc__(self):
        jdr_interval_map_free(&self.map)

    @property
    def covered_bytes(self):
        return self.map.covered_bytes

    @property
    def memory_bytes(self):
        return self.map.capacity * sizeof(jdr_interval_node)

    def __len__(self):
        return self.map.count

    def overlay(self, offsets, lengths):
        offsets = np.ascontiguousarray(offsets, np.uint64)
        lengths = np.ascontiguousarray(lengths, np.uint64)
        if offsets.ndim != 1 or offsets.shape != lengths.shape:
            raise ValueError(f"offsets {offsets.shape} and lengths {lengths.shape} are not two columns of one table")
        self.enter()
        try:
            return self.cover(offsets, lengths)
        finally:
            self.in_use.release()

    def intervals(self):
        cdef Py_buffer view
        self.enter()
        try:
            rows = np.empty(self.map.count, _INTERVAL)
            if self.map.count:
                PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
                with nogil:
                    jdr_interval_list(&self.map, <uint64_t *>view.buf)
                PyBuffer_Release(&view)
        finally:
            self.in_use.release()
        return rows

    cdef int enter(self) except -1:
        if not self.in_use.acquire(False):
            raise RuntimeError("this interval map is in use by another thread")
        return 0

    cdef object cover(self, offsets, lengths):
        cdef Py_buffer starts
        cdef Py_buffer sizes
        cdef jdr_uncovered_list out
        cdef size_t count = offsets.shape[0]
        cdef int64_t bad
        cdef int failed = 0
        if count == 0:
            return np.empty(0, _UNCOVERED)
        memset(&out, 0, sizeof(out))
        PyObject_GetBuffer(offsets, &starts, PyBUF_SIMPLE)
        PyObject_GetBuffer(lengths, &sizes, PyBUF_SIMPLE)
        with nogil:
            bad = jdr_interval_check(<const uint64_t *>starts.buf, <const uint64_t *>sizes.buf, count)
            if bad < 0:
                failed = jdr_interval_overlay(
                    &self.map, <const uint64_t *>starts.buf, <const uint64_t *>sizes.buf, count, &out
                )
        PyBuffer_Release(&starts)
        PyBuffer_Release(&sizes)
        try:
            if bad >= 0:
                raise ValueError(f"piece {bad} ends beyond the range of file offsets")
            if failed:
                raise MemoryError("no memory for the interval map; the plan must be given up")
            rows = np.empty(out.count, _UNCOVERED)
            copy_rows(rows, out.rows, out.count * sizeof(jdr_uncovered))
        finally:
            jdr_uncovered_free(&out)
        return rows
