# cython: language_level=3, freethreading_compatible=True, autotestdict=False
"""Python face of the native core (jetdr.h): policy and errors here, loops in C. The contract is in jetdr_core/_core.pyi."""

import errno
import os
import sys
import threading
from collections import namedtuple
from enum import IntEnum

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from jetdr_core.errors import (
    DamagedObject,
    Fenced,
    InvalidRequest,
    LogFailed,
    LoggingOff,
    PrimaryFailed,
    RingApart,
    RingBusy,
    RingForeign,
    StallTimeout,
    UnsupportedVersion,
)

include "core_jetdr.pxi"

NATIVE_LIMITS = {
    "SECTOR_BYTES": JDR_SECTOR,
    "BLOCK_BYTES": JDR_BLOCK,
    "RECORD_BYTES_MAX": JDR_RECORD_BYTES_MAX,
    "DIGEST_BYTES_MAX": JDR_DIGEST_BYTES_MAX,
    "BATCH_RECORDS_MAX": JDR_BATCH_RECORDS_MAX,
    "BATCH_PAYLOAD_BYTES_MAX": JDR_BATCH_BYTES_MAX,
    "UNSYNCED_BYTES_MAX": JDR_UNSYNCED_BYTES_MAX,
}

NATIVE_KINDS = {"WRITE": JDR_WRITE, "ZERO": JDR_ZERO, "GAP_OPEN": JDR_GAP_OPEN, "VOID": JDR_VOID}
NATIVE_FLAGS = {"BACKGROUND": JDR_BACKGROUND, "DISCARD": JDR_DISCARD, "REREAD": JDR_REREAD}


class OffReason(IntEnum):
    FULL = JDR_OFF_FULL
    FLUSH = JDR_OFF_FLUSH
    DISK = JDR_OFF_DISK
    DRVA = JDR_OFF_DRVA
    OVERLOAD = JDR_OFF_OVERLOAD


WriterState = namedtuple(
    "WriterState",
    "lsn_written lsn_durable batch_written batch_durable head_position durable_position previous_checksum "
    "bytes_written commits flushes failed_errno",
)
FilterStats = namedtuple(
    "FilterStats",
    [jdr_filter_stat_names[i].decode() for i in range(JDR_FILTER_STATS_COUNT)],
    defaults=[0] * JDR_FILTER_STATS_COUNT,
)
RingClock = namedtuple("RingClock", "wall_ns monotonic_ns lead_ns time_ns_last away_ns away_since_ns doubted_since_ns")
MapState = namedtuple("MapState", "region_bytes marked_bytes owed_bytes intents failed_errno failed_since_ns")
RingOff = namedtuple("RingOff", "logging reason disk since_ns times")


cdef int64_t nanoseconds(double seconds) except? -1:
    if not 0 <= seconds <= 86400:
        raise InvalidRequest(f"time limit {seconds} s is not valid", hint="use 0 to 86400 seconds")
    return <int64_t>(seconds * 1e9)


cdef uint64_t check(object number) except? 0xFFFFFFFFFFFFFFFF:
    if number < 0 or number > 1 << 62:
        raise InvalidRequest(f"offset or length {number} is not valid", hint="use a multiple of 512 within the disk")
    return number


cdef int interrupt_from(object cause, object failed) except -1:
    """Raise ``cause`` if it is no error of the device but an interrupt that came while it worked."""
    if cause is not None and not isinstance(cause, Exception):
        raise cause from failed
    return 0


include "core_device.pxi"
include "core_ring.pxi"
include "core_simulation.pxi"
include "core_log_writer.pxi"
include "core_dirty_map.pxi"
include "core_io_filter.pxi"
