# IoFilter: the shim on one disk, for embedded use.


@cython.no_gc_clear  # the filter uses ring, device and map until it is freed
cdef class IoFilter:
    cdef jdr_filter *filter
    cdef Ring ring
    cdef _Bound bound
    cdef readonly DirtyMap dirty_map
    cdef readonly uint64_t size_bytes
    cdef readonly uint64_t record_bytes_max
    cdef object __weakref__

    def __cinit__(
        self, Ring ring, device, *, disk, size_bytes, record_bytes_max, stall_limit_s, DirtyMap dirty_map=None
    ):
        cdef jdr_filter_options options
        self.ring = ring
        self.bound = _Bound(device)
        self.size_bytes = size_bytes
        self.record_bytes_max = record_bytes_max
        options.primary = self.bound.native
        if options.primary.block_bytes > JDR_SECTOR:
            raise InvalidRequest(
                f"a primary disk with blocks of {device.block_bytes} bytes takes no single sectors",
                hint="use a disk with blocks of 512 bytes, or open its file without direct I/O",
            )
        options.ring = ring.ring if ring is not None else NULL
        options.disk = disk
        options.size_bytes = size_bytes
        options.record_bytes_max = record_bytes_max
        options.stall_limit_ns = nanoseconds(stall_limit_s)
        options.bypass = False
        options.applier = NULL
        self.dirty_map = dirty_map
        options.map = dirty_map.map if dirty_map is not None else NULL
        cdef int result = jdr_filter_open(&self.filter, &options)
        if result == -errno.ENOMEM:
            raise MemoryError("IO filter")
        if result:
            raise InvalidRequest(
                f"disk of {size_bytes} bytes with writes of up to {record_bytes_max} bytes is not valid",
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
        cdef jdr_zeroing zeroing = JDR_ZERO_DISCARDS if discard else JDR_ZERO_FREES_SPACE
        cdef int64_t result
        with nogil:
            result = jdr_filter_zero(self.filter, at, size, zeroing)
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

    def digest(self, offset, length):
        cdef uint64_t at = check(offset)
        cdef uint64_t size = check(length)
        cdef uint8_t digest[16]
        cdef int64_t result
        with nogil:
            result = jdr_filter_digest(self.filter, at, size, digest)
        if result < 0:
            self.fail(result, "digest", at, size)
        return result, (<char *>digest)[:16]

    def tend_map(self):
        cdef int result
        with nogil:
            result = jdr_filter_tend_map(self.filter)
        if result < 0:
            self.fail(result, "flush", 0, self.size_bytes)

    def grow(self, size_bytes):
        cdef uint64_t size = check(size_bytes)
        if jdr_filter_grow(self.filter, size):
            raise InvalidRequest(
                f"a disk of {self.size_bytes} bytes cannot grow to {size}", hint="it grows by whole sectors, and never shrinks"
            )
        self.size_bytes = size

    def stats(self):
        cdef jdr_filter_stats stats
        c_filter_stats(self.filter, &stats)
        return FilterStats._make([(<uint64_t *>&stats)[i] for i in range(JDR_FILTER_STATS_COUNT)])

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
                hint=f"offset and length are multiples of 512 within the disk; a write has 512 to {self.record_bytes_max} bytes",
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
            hint = "mend the primary disk; replica and disk may differ until all of it is resynced"
        elif operation == "write" and self.ring is not None:
            hint = "mend the primary disk; the replica holds what the disk held after the failure"
        else:
            hint = "mend the primary disk"
        failed = PrimaryFailed(
            f"{where}: the primary disk failed: {os.strerror(number)}",
            hint=hint, errno=number, suspect=suspect, offset=offset, length=length,
        )
        cause = self.bound.take()
        interrupt_from(cause, failed)
        raise failed from cause
