# cython: language_level=3, freethreading_compatible=True, autotestdict=False
"""Python face of the native core (jetdr.h): policy and errors here, loops in C. The contract is in jetdr_core/_core.pyi."""

import errno
import os
import threading
from collections import namedtuple

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

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

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from *:
    """
    #include <stdatomic.h>
    static void clock_store(_Atomic int64_t *c, int64_t v) { atomic_store(c, v); }
    static int64_t clock_load(_Atomic int64_t *c) { return atomic_load(c); }
    static int64_t clock_add(_Atomic int64_t *c, int64_t v) { return atomic_fetch_add(c, v); }
    """
    ctypedef struct atomic_int64 "_Atomic int64_t":
        pass
    void clock_store(atomic_int64 *, int64_t) nogil
    int64_t clock_load(atomic_int64 *) nogil
    int64_t clock_add(atomic_int64 *, int64_t) nogil

cdef extern from "jetdr.h" nogil:
    enum:
        JDR_SECTOR
        JDR_ERRNO_MAX
        JDR_EFENCED
        JDR_SUSPECT
        JDR_PRIMARY
    struct jdr_record:
        uint64_t lsn
        int64_t time_ns
        uint64_t offset
        uint64_t length
        uint64_t payload_checksum
        uint32_t disk
        uint32_t payload_bytes
        uint8_t kind
        uint8_t flags
    struct jdr_device:
        int (*read)(const jdr_device *, uint64_t, void *, size_t) noexcept nogil
        int (*write)(const jdr_device *, uint64_t, const iovec *, int) noexcept nogil
        int (*zero)(const jdr_device *, uint64_t, uint64_t) noexcept nogil
        int (*sync)(const jdr_device *) noexcept nogil
        void *context
        int fd
        uint32_t block_bytes
    void jdr_device_from_fd(jdr_device *, int, uint32_t)

    struct jdr_ring:
        pass
    struct jdr_ring_options:
        uint64_t payload_bytes
        uint64_t slots
        uint64_t record_bytes_max
        uint64_t lsn_next
        int64_t time_ns_last
        const atomic_int64 *clock
        bint write_back
    enum jdr_side:
        JDR_HOST
        JDR_DRVA
    enum jdr_off_reason:
        JDR_OFF_DRVA
    struct c_ring_off "jdr_ring_off":
        bint logging
        uint32_t reason, disk
        int64_t since_ns
        uint64_t count
    int jdr_ring_format(int, const jdr_ring_options *, const uint8_t *)
    int jdr_ring_open(jdr_ring **, int, jdr_side, const uint8_t *)
    void jdr_ring_leave(jdr_ring *)
    bint jdr_ring_side_alive(const jdr_ring *, jdr_side)
    bint jdr_ring_host_ended(const jdr_ring *)
    void get_ring_off "jdr_ring_off"(const jdr_ring *, c_ring_off *)
    void jdr_ring_stop_logging(jdr_ring *, jdr_off_reason, uint32_t)
    void jdr_ring_resume_logging(jdr_ring *)
    int jdr_ring_adopt(jdr_ring *, uint64_t)
    int jdr_ring_reset(jdr_ring *, const jdr_ring_options *)
    uint64_t jdr_ring_lsn_applied(const jdr_ring *)
    bint jdr_ring_write_back(const jdr_ring *)
    uint64_t jdr_ring_payload_bytes(const jdr_ring *)
    int jdr_ring_create(jdr_ring **, const jdr_ring_options *)
    void jdr_ring_destroy(jdr_ring *)
    int jdr_ring_admit(jdr_ring *, uint64_t, int64_t)
    int64_t jdr_ring_append(jdr_ring *, jdr_record *, const void *, size_t)
    void jdr_ring_request_durable(jdr_ring *, uint64_t)
    int jdr_ring_wait_durable(jdr_ring *, uint64_t, int64_t)
    void jdr_ring_poison(jdr_ring *, int)
    uint64_t jdr_ring_lsn_reserved(const jdr_ring *)
    uint64_t jdr_ring_lsn_durable(const jdr_ring *)
    uint64_t jdr_ring_observe(jdr_ring *, int64_t *)
    int64_t jdr_ring_time_last(const jdr_ring *)
    uint64_t jdr_ring_used_bytes(const jdr_ring *)
    uint64_t jdr_ring_record_bytes_max(const jdr_ring *)
    int jdr_ring_poisoned(const jdr_ring *)
    int64_t jdr_ring_now(const jdr_ring *)

    struct jdr_filter:
        pass
    struct jdr_filter_options:
        jdr_ring *ring
        jdr_device primary
        uint32_t disk
        uint64_t size_bytes
        uint64_t write_bytes_max
        int64_t stall_limit_ns
        bint bypass
        void *applier
    struct jdr_filter_stats:
        uint64_t writes, write_bytes, zeros, zero_bytes, reads, read_bytes, flushes, background_bytes
        uint64_t overlaps_waited, stalls, stall_ns, stall_ns_max, failed_writes, unlogged_writes, unlogged_bytes
        bint suspect
        int sync_failed
    int jdr_filter_open(jdr_filter **, const jdr_filter_options *)
    int64_t jdr_filter_pwrite(jdr_filter *, const void *, size_t, uint64_t)
    int64_t jdr_filter_zero(jdr_filter *, uint64_t, uint64_t, bint)
    int jdr_filter_pread(jdr_filter *, void *, size_t, uint64_t)
    int64_t jdr_filter_flush(jdr_filter *)
    int64_t jdr_filter_copy(jdr_filter *, uint64_t, uint64_t)
    void c_filter_stats "jdr_filter_stats"(jdr_filter *, jdr_filter_stats *)
    void jdr_filter_trust(jdr_filter *)
    void jdr_filter_close(jdr_filter *)
    void jdr_filter_destroy(jdr_filter *)

    struct jdr_writer:
        pass
    struct jdr_writer_options:
        jdr_ring *ring
        jdr_device device
        uint64_t data_offset, data_bytes
        uint64_t section_id, epoch
        uint64_t head_position, tail_position
        uint64_t batch_number
        uint64_t previous_checksum
        uint64_t batch_bytes_max
    struct jdr_writer_state:
        uint64_t lsn_written, lsn_durable, batch_written, batch_durable
        uint64_t head_position, durable_position, previous_checksum
        uint64_t bytes_written, commits, flushes
        int failed
    int jdr_writer_create(jdr_writer **, const jdr_writer_options *)
    void jdr_writer_destroy(jdr_writer *)
    int jdr_writer_commit(jdr_writer *)
    int jdr_writer_run(jdr_writer *)
    void jdr_writer_stop(jdr_writer *)
    int jdr_writer_set_tail(jdr_writer *, uint64_t)
    void c_writer_state "jdr_writer_state"(jdr_writer *, jdr_writer_state *)

WriterState = namedtuple(
    "WriterState",
    "lsn_written lsn_durable batch_written batch_durable head_position durable_position previous_checksum "
    "bytes_written commits flushes failed_errno",
)
FilterStats = namedtuple(
    "FilterStats",
    "writes write_bytes zeros zero_bytes reads read_bytes flushes background_bytes overlaps_waited stalls stall_ns "
    "stall_ns_max failed_writes unlogged_writes unlogged_bytes suspect sync_failed",
)
RingOff = namedtuple("RingOff", "logging reason disk since_ns times")


# -- devices -------------------------------------------------------------------------------------------------------------


@cython.no_gc_clear  # native code calls into it until its owner is freed
cdef class _Bound:
    """A BlockDevice as native code calls it: through its descriptor or its own native functions where it has them.

    What a device implemented in Python raises is kept, per thread, for the call that met it.
    """

    cdef jdr_device native
    cdef object device
    cdef object met

    def __cinit__(self, device):
        cdef int fd = device.fileno()
        cdef object native_device = getattr(device, "native_device", None)
        self.device = device
        self.met = threading.local()
        if fd >= 0:
            jdr_device_from_fd(&self.native, fd, device.block_bytes)
            return
        if native_device is not None:
            self.native = (<jdr_device *>PyCapsule_GetPointer(native_device(), b"jdr_device"))[0]
            return
        self.native.read = python_read
        self.native.write = python_write
        self.native.zero = python_zero
        self.native.sync = python_sync
        self.native.context = <void *>self
        self.native.fd = -1
        self.native.block_bytes = device.block_bytes

    cdef int failed(self, object error) noexcept:
        """Keep ``error``; the negative errno that it means."""
        try:
            first = getattr(self.met, "error", None)
            if first is None or (isinstance(first, Exception) and not isinstance(error, Exception)):
                self.met.error = error
            number = getattr(error, "errno", None)
            return -number if isinstance(number, int) and 0 < number <= JDR_ERRNO_MAX else -EIO
        except BaseException:
            return -EIO

    cdef object take(self):
        """The first error the device raised in this thread since the last look, or None. An interrupt goes before it."""
        error = getattr(self.met, "error", None)
        self.met.error = None
        return error


cdef int python_read(const jdr_device *device, uint64_t offset, void *target, size_t length) noexcept with gil:
    bound = <_Bound>device.context
    try:
        view = PyMemoryView_FromMemory(<char *>target, length, 0x200)
        try:
            bound.device.read_into(offset, view)
        finally:
            view.release()  # BufferError where the device keeps it: the memory is the caller's
        return 0
    except BaseException as error:
        return bound.failed(error)


cdef int python_write(const jdr_device *device, uint64_t offset, const iovec *iov, int count) noexcept with gil:
    cdef int i
    bound = <_Bound>device.context
    try:
        data = b"".join([PyMemoryView_FromMemory(<char *>iov[i].iov_base, iov[i].iov_len, 0x100) for i in range(count)])
        bound.device.write(offset, data)
        return 0
    except BaseException as error:
        return bound.failed(error)


cdef int python_zero(const jdr_device *device, uint64_t offset, uint64_t length) noexcept with gil:
    bound = <_Bound>device.context
    try:
        bound.device.zero(offset, length)
        return 0
    except BaseException as error:
        return bound.failed(error)


cdef int python_sync(const jdr_device *device) noexcept with gil:
    bound = <_Bound>device.context
    try:
        bound.device.sync()
        return 0
    except BaseException as error:
        return bound.failed(error)


cdef int64_t nanoseconds(double seconds) except? -1:
    if not 0 <= seconds <= 86400:
        raise InvalidRequest(f"time limit {seconds} s is not valid", hint="use 0 to 86400 seconds")
    return <int64_t>(seconds * 1e9)


# -- clock ---------------------------------------------------------------------------------------------------------------


cdef class ManualClock:
    cdef atomic_int64 now

    def __init__(self, time_ns=1_700_000_000_000_000_000):
        clock_store(&self.now, time_ns)

    @property
    def time_ns(self):
        return clock_load(&self.now)

    def advance(self, nanoseconds):
        clock_add(&self.now, nanoseconds)

    def set(self, time_ns):
        clock_store(&self.now, time_ns)


# -- ring ----------------------------------------------------------------------------------------------------------------


@cython.no_gc_clear  # the ring reads the clock until it is freed
cdef class Ring:
    cdef jdr_ring *ring
    cdef object clock
    cdef object fence
    cdef readonly uint64_t payload_bytes
    cdef object __weakref__

    def __cinit__(
        self, *, payload_bytes=0, slots=0, lsn_next=1, time_ns_last=0, ManualClock clock=None, record_bytes_max=None,
        file=None, domain=None,
    ):
        cdef jdr_ring_options options = ring_options(payload_bytes, slots, lsn_next, time_ns_last, record_bytes_max)
        cdef const uint8_t *name = domain_bytes(domain) if domain is not None else NULL
        cdef int result
        self.clock = clock
        self.fence = None
        if file is not None:
            result = jdr_ring_open(&self.ring, file, JDR_DRVA, name)
        else:
            options.clock = &clock.now if clock is not None else NULL
            result = jdr_ring_create(&self.ring, &options)
        if result:
            raise ring_refused(result, payload_bytes, slots, record_bytes_max)
        self.payload_bytes = jdr_ring_payload_bytes(self.ring)

    @classmethod
    def create_file(
        cls, file, *, domain, payload_bytes, slots, lsn_next, time_ns_last=0, record_bytes_max=None, write_back=False
    ):
        cdef jdr_ring_options options = ring_options(payload_bytes, slots, lsn_next, time_ns_last, record_bytes_max)
        options.write_back = write_back
        cdef int result = jdr_ring_format(file, &options, domain_bytes(domain))
        if result:
            raise ring_refused(result, payload_bytes, slots, record_bytes_max)
        return Ring(file=file, domain=domain)

    @classmethod
    def open_file(cls, file, *, domain=None):
        return Ring(file=file, domain=domain)

    def __dealloc__(self):
        jdr_ring_destroy(self.ring)

    @property
    def lsn_reserved(self):
        return jdr_ring_lsn_reserved(self.ring)

    @property
    def lsn_durable(self):
        return jdr_ring_lsn_durable(self.ring)

    @property
    def time_ns_last(self):
        return jdr_ring_time_last(self.ring)

    def observe(self):
        cdef int64_t time_ns
        cdef uint64_t lsn = jdr_ring_observe(self.ring, &time_ns)
        return lsn, time_ns

    @property
    def used_bytes(self):
        return jdr_ring_used_bytes(self.ring)

    @property
    def record_bytes_max(self):
        return jdr_ring_record_bytes_max(self.ring)

    @property
    def poisoned(self):
        return jdr_ring_poisoned(self.ring)

    def now_ns(self):
        return jdr_ring_now(self.ring)

    # -- in a file

    @property
    def logging(self):
        return self.off().logging

    @property
    def write_back(self):
        return bool(jdr_ring_write_back(self.ring))

    @property
    def lsn_applied(self):
        return jdr_ring_lsn_applied(self.ring)

    @property
    def host_alive(self):
        return bool(jdr_ring_side_alive(self.ring, JDR_HOST))

    @property
    def host_ended(self):
        return bool(jdr_ring_host_ended(self.ring))

    def off(self):
        cdef c_ring_off off
        get_ring_off(self.ring, &off)
        return RingOff(bool(off.logging), off.reason, off.disk, off.since_ns, off.count)

    def stop_logging(self):
        with nogil:
            jdr_ring_stop_logging(self.ring, JDR_OFF_DRVA, 0)

    def leave(self):
        jdr_ring_leave(self.ring)

    def resume_logging(self):
        jdr_ring_resume_logging(self.ring)

    def adopt(self, lsn):
        if jdr_ring_adopt(self.ring, check(lsn)):
            raise RingApart(
                f"the log ends at LSN {lsn}, the ring holds LSN {self.lsn_durable + 1} to {self.lsn_reserved}",
                hint="the ring is emptied, and all disks are read again behind a gap",
                lsn_log=lsn,
            )

    def reset(self, *, lsn_next, time_ns_last, record_bytes_max):
        cdef jdr_ring_options options = ring_options(0, 0, lsn_next, time_ns_last, record_bytes_max)
        cdef int result = jdr_ring_reset(self.ring, &options)
        if result == -errno.EINVAL:
            raise InvalidRequest(
                f"the ring cannot begin at LSN {lsn_next} with records of {record_bytes_max} bytes",
                hint="switch logging off first; a record has at most half of the ring",
            )
        return result == 0

    def control(self, kind, disk, payload, *, stall_limit_s):
        cdef jdr_record record
        cdef int64_t limit = nanoseconds(stall_limit_s)
        cdef bytes held = bytes(payload)
        cdef size_t length = len(held)
        cdef uint64_t padded = (length + 511) // 512 * 512
        cdef int64_t result
        cdef const char *data = PyBytes_AS_STRING(held)
        memset(&record, 0, sizeof(record))
        record.kind = kind
        record.disk = disk
        record.length = length
        record.payload_bytes = <uint32_t>padded
        with nogil:
            result = jdr_ring_admit(self.ring, padded, limit)
            if result == 0:
                result = jdr_ring_append(self.ring, &record, data, length)
        if result < 0:
            raise self.error(result, f"record of {padded} bytes")
        return record.lsn, record.time_ns

    def request_durable(self, lsn):
        cdef uint64_t wanted = lsn
        with nogil:
            jdr_ring_request_durable(self.ring, wanted)

    def wait_durable(self, lsn, timeout_s):
        cdef uint64_t wanted = lsn
        cdef int64_t limit = nanoseconds(timeout_s)
        cdef int result
        with nogil:
            result = jdr_ring_wait_durable(self.ring, wanted, limit)
        if result and result != -errno.ETIMEDOUT:
            raise self.error(result, f"wait for LSN {lsn}")
        return result == 0

    def poison(self, error, fence=None):
        """Stop every writer: with the errno ``error``, or with ``fence``, the arguments of a Fenced error."""
        if fence is not None:
            self.fence = fence
        elif not 0 < error <= JDR_ERRNO_MAX:
            raise InvalidRequest(f"a ring cannot be poisoned with error {error}", hint="use an errno")
        jdr_ring_poison(self.ring, JDR_EFENCED if fence is not None else error)

    def fail(self, result, what):
        """Raise what the negative ``result`` of a call on this ring means."""
        raise self.error(result, what)

    cdef object error(self, int64_t result, what):
        """The error that the negative ``result`` of a call on this ring means."""
        if result == -errno.EMSGSIZE:
            return InvalidRequest(
                f"{what} is longer than the log takes ({self.record_bytes_max})", hint="shorten it, or enlarge the log"
            )
        if result == -errno.ETIMEDOUT:
            return StallTimeout(
                f"{what}: the replication log accepted nothing more within the stall limit",
                hint="the log is full or its device does not answer: look at the upload's state, enlarge the log",
                lsn_durable=self.lsn_durable,
                lsn_reserved=self.lsn_reserved,
            )
        if result == -errno.ECANCELED:
            return LoggingOff(
                f"{what}: logging is switched off", hint="it resumes by itself when the log has room; look at the status"
            )
        if result == -JDR_EFENCED and self.fence is not None:
            return Fenced(*self.fence)
        if self.poisoned:
            failed = LogFailed(
                f"{what}: the replication log stopped after its device failed: {os.strerror(self.poisoned)}",
                hint="close the domain, mend the log device, open it again",
                errno=self.poisoned,
            )
            failed.errno = self.poisoned
            return failed
        return OSError(-result, os.strerror(-result), what)


# -- log writer ----------------------------------------------------------------------------------------------------------


@cython.no_gc_clear  # the writer uses ring and device until it is freed
cdef class LogWriter:
    cdef jdr_writer *writer
    cdef readonly Ring ring
    cdef _Bound bound
    cdef object thread
    cdef bint stopped

    def __cinit__(
        self, Ring ring, device, *, data_offset, data_bytes, section_id, epoch, head_position, tail_position,
        batch_number, previous_checksum, batch_bytes_max=8 << 20,
    ):
        cdef jdr_writer_options options
        self.ring = ring
        self.bound = _Bound(device)
        options.device = self.bound.native
        options.ring = ring.ring
        options.data_offset = data_offset
        options.data_bytes = data_bytes
        options.section_id = section_id
        options.epoch = epoch
        options.head_position = head_position
        options.tail_position = tail_position
        options.batch_number = batch_number
        options.previous_checksum = previous_checksum
        options.batch_bytes_max = batch_bytes_max
        cdef int result = jdr_writer_create(&self.writer, &options)
        if result == -errno.ENOMEM:
            raise MemoryError("log writer")
        if result:
            raise InvalidRequest(
                f"log section of {data_bytes} bytes at {data_offset}, head {head_position}, tail {tail_position} is not valid",
                hint=(
                    "positions and sizes are multiples of 4096, the tail at most one lap behind the head, the data area "
                    f"at least four of the ring's longest record ({ring.record_bytes_max}), a batch 4096 bytes to 64 MiB"
                ),
            )

    def __dealloc__(self):
        jdr_writer_destroy(self.writer)

    def start(self):
        if self.thread is not None or self.stopped:
            raise InvalidRequest(
                "the log writer was stopped" if self.stopped else "the log writer runs already",
                hint="start it once; open the log again for another",
            )
        self.thread = threading.Thread(target=self._run, name="jetdr-log-writer", daemon=True)
        self.thread.start()

    def _run(self):
        cdef int result
        with nogil:
            result = jdr_writer_run(self.writer)
        if result:
            interrupt_from(self.bound.take(), None)  # any other error has poisoned the ring

    def stop(self):
        self.stopped = True
        jdr_writer_stop(self.writer)
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def commit(self):
        cdef int result
        with nogil:
            result = jdr_writer_commit(self.writer)
        if result < 0:
            cause = self.bound.take()
            failed = self.ring.error(result, "commit")
            interrupt_from(cause, failed)
            raise failed from cause
        return result

    def set_tail(self, position):
        if jdr_writer_set_tail(self.writer, check(position)):
            raise InvalidRequest(
                f"the log's tail cannot move to {position}", hint="pass the place of a durable batch, not before the tail"
            )

    def state(self):
        cdef jdr_writer_state state
        c_writer_state(self.writer, &state)
        return WriterState(
            state.lsn_written, state.lsn_durable, state.batch_written, state.batch_durable, state.head_position,
            state.durable_position, state.previous_checksum, state.bytes_written, state.commits, state.flushes,
            state.failed,
        )


# -- IO filter -----------------------------------------------------------------------------------------------------------


@cython.no_gc_clear  # the filter uses ring and device until it is freed
cdef class IoFilter:
    cdef jdr_filter *filter
    cdef Ring ring
    cdef _Bound bound
    cdef readonly uint64_t size_bytes
    cdef readonly uint64_t write_bytes_max
    cdef object __weakref__

    def __cinit__(self, Ring ring, device, *, disk, size_bytes, write_bytes_max, stall_limit_s):
        cdef jdr_filter_options options
        self.ring = ring
        self.bound = _Bound(device)
        self.size_bytes = size_bytes
        self.write_bytes_max = write_bytes_max
        options.primary = self.bound.native
        if options.primary.block_bytes > JDR_SECTOR:
            raise InvalidRequest(
                f"a primary disk with blocks of {device.block_bytes} bytes takes no single sectors",
                hint="use a disk with blocks of 512 bytes, or open its file without direct I/O",
            )
        options.ring = ring.ring if ring is not None else NULL
        options.disk = disk
        options.size_bytes = size_bytes
        options.write_bytes_max = write_bytes_max
        options.stall_limit_ns = nanoseconds(stall_limit_s)
        options.bypass = False
        options.applier = NULL
        cdef int result = jdr_filter_open(&self.filter, &options)
        if result == -errno.ENOMEM:
            raise MemoryError("IO filter")
        if result:
            raise InvalidRequest(
                f"disk of {size_bytes} bytes with writes of up to {write_bytes_max} bytes is not valid",
                hint=(
                    "sizes are multiples of 512; a write has at most 32 MiB"
                    + (f", with this log {ring.record_bytes_max} bytes" if ring is not None else "")
                ),
            )

    def __dealloc__(self):
        jdr_filter_destroy(self.filter)

    def write(self, offset, data):
        cdef uint64_t at = check(offset)
        cdef Py_buffer view
        cdef int64_t result
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        with nogil:
            result = jdr_filter_pwrite(self.filter, view.buf, view.len, at)
        cdef uint64_t length = view.len
        PyBuffer_Release(&view)
        if result < 0:
            self.fail(result, "write", at, length)
        return result

    def zero(self, offset, length, *, discard=False):
        cdef uint64_t at = check(offset)
        cdef uint64_t size = check(length)
        cdef bint is_discard = discard
        cdef int64_t result
        with nogil:
            result = jdr_filter_zero(self.filter, at, size, is_discard)
        if result < 0:
            self.fail(result, "discard" if discard else "zero", at, size)
        return result

    def read(self, offset, length):
        cdef uint64_t at = check(offset)
        cdef uint64_t size = check(length)
        if size > self.size_bytes:
            self.fail(-errno.EINVAL, "read", at, size)
        cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
        cdef char *target = PyBytes_AS_STRING(data)
        cdef int result
        with nogil:
            result = jdr_filter_pread(self.filter, target, size, at)
        if result < 0:
            self.fail(result, "read", at, size)
        return data

    def read_into(self, offset, target):
        cdef uint64_t at = check(offset)
        cdef Py_buffer view
        cdef int result
        PyObject_GetBuffer(target, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        with nogil:
            result = jdr_filter_pread(self.filter, view.buf, view.len, at)
        cdef uint64_t length = view.len
        PyBuffer_Release(&view)
        if result < 0:
            self.fail(result, "read", at, length)

    def flush(self):
        cdef int64_t result
        with nogil:
            result = jdr_filter_flush(self.filter)
        if result < 0:
            self.fail(result, "flush", 0, self.size_bytes)
        return result

    def copy_background(self, offset, length):
        cdef uint64_t at = check(offset)
        cdef uint64_t size = check(length)
        cdef int64_t result
        with nogil:
            result = jdr_filter_copy(self.filter, at, size)
        if result == -errno.E2BIG:
            return 0
        if result < 0:
            self.fail(result, "background copy", at, size)
        return result

    def stats(self):
        cdef jdr_filter_stats stats
        c_filter_stats(self.filter, &stats)
        return FilterStats(
            stats.writes, stats.write_bytes, stats.zeros, stats.zero_bytes, stats.reads, stats.read_bytes,
            stats.flushes, stats.background_bytes, stats.overlaps_waited, stats.stalls, stats.stall_ns,
            stats.stall_ns_max, stats.failed_writes, stats.unlogged_writes, stats.unlogged_bytes, stats.suspect,
            stats.sync_failed,
        )

    def trust(self):
        jdr_filter_trust(self.filter)

    def close(self):
        with nogil:
            jdr_filter_close(self.filter)

    cdef int fail(self, int64_t result, str operation, uint64_t offset, uint64_t length) except -1:
        """Raise what the negative ``result`` means for ``operation`` on [offset, offset + length)."""
        where = f"{operation} of {length} bytes at {offset}"
        if result == -errno.EINVAL:
            raise InvalidRequest(
                f"{where} is not valid on a disk of {self.size_bytes} bytes",
                hint=f"offset and length are multiples of 512 within the disk; a write has 512 to {self.write_bytes_max} bytes",
                offset=offset, length=length, size_bytes=self.size_bytes,
            )
        if result == -errno.ESHUTDOWN:
            raise InvalidRequest(f"{where}: the disk is closed", hint="open the domain again")
        if result == -errno.EBUSY:
            raise StallTimeout(
                f"{where}: this disk's own primary has not answered earlier writes within the stall limit",
                hint="look at the primary disk; the replication log has room",
            )
        if result == -errno.ENOMEM:
            raise MemoryError(where)
        if -result & JDR_PRIMARY:
            self.fail_primary(-result, operation, where, offset, length)
        if operation == "flush" and result == -errno.ETIMEDOUT:
            raise StallTimeout(
                f"{where}: the replication log did not become durable within the stall limit; nothing is lost",
                hint="the log is full or its device does not answer: look at the upload's state, flush again",
            )
        raise self.ring.error(result, where)

    cdef int fail_primary(self, int64_t code, str operation, str where, uint64_t offset, uint64_t length) except -1:
        cdef int number = code & JDR_ERRNO_MAX
        cdef bint suspect = code & JDR_SUSPECT
        if suspect:
            hint = "mend the primary disk; replica and disk may differ until all of it is copied again"
        elif operation == "write" and self.ring is not None:
            hint = "mend the primary disk; the replica holds what the disk held after the failure"
        else:
            hint = "mend the primary disk"
        failed = PrimaryFailed(
            f"{where}: the primary disk failed: {os.strerror(number)}",
            hint=hint, errno=number, suspect=suspect, offset=offset, length=length,
        )
        failed.errno = number
        failed.suspect = suspect
        cause = self.bound.take()
        interrupt_from(cause, failed)
        raise failed from cause


cdef int interrupt_from(object cause, object failed) except -1:
    """Raise ``cause`` if it is no error of the device but an interrupt that came while it worked."""
    if cause is not None and not isinstance(cause, Exception):
        raise cause from failed
    return 0


cdef jdr_ring_options ring_options(payload_bytes, slots, lsn_next, time_ns_last, record_bytes_max):
    cdef jdr_ring_options options
    memset(&options, 0, sizeof(options))
    options.payload_bytes = payload_bytes
    options.slots = slots
    options.record_bytes_max = record_bytes_max or 0
    options.lsn_next = lsn_next
    options.time_ns_last = time_ns_last
    return options


cdef const uint8_t *domain_bytes(bytes domain) except NULL:
    if len(domain) != 16:
        raise InvalidRequest(f"a domain is known by 16 bytes, not {len(domain)}", hint="pass the bytes of its UUID")
    return <const uint8_t *>PyBytes_AS_STRING(domain)


cdef object ring_refused(int result, payload_bytes, slots, record_bytes_max):
    """The error that a ring could not be made or opened with."""
    if result == -errno.ENOMEM:
        return MemoryError(f"a ring of {payload_bytes} bytes does not fit into memory")
    if result == -errno.EINVAL:
        return InvalidRequest(
            f"ring of {payload_bytes} bytes and {slots} slots for records of {record_bytes_max} bytes is not valid",
            hint=(
                "both must be powers of two, at least 65536 bytes and 16 slots; a record has at most half the bytes; "
                "a file is empty, and on tmpfs"
            ),
        )
    if result == -errno.EBADMSG:
        return DamagedObject("ring file", "header", "it is no ring, or damaged", hint="stop its host component, remove it")
    if result == -errno.EPROTONOSUPPORT:
        return UnsupportedVersion(
            "the ring file has another version", hint="stop the host component that was started by the other engine"
        )
    if result == -errno.ESTALE:
        return RingForeign("the ring file belongs to another domain", hint="give each domain a folder of its own")
    if result == -errno.EACCES:
        return RingForeign(
            "the ring file belongs to another user, or others may read or write it", hint="it must be ours, mode 0600"
        )
    if result == -errno.EBUSY:
        return RingBusy("another process drains this ring", hint="one DRVA per domain: stop the other")
    return OSError(-result, os.strerror(-result), "ring file")


cdef uint64_t check(object number) except? 0xFFFFFFFFFFFFFFFF:
    if number < 0 or number > 1 << 62:
        raise InvalidRequest(f"offset or length {number} is not valid", hint="use a multiple of 512 within the disk")
    return number
