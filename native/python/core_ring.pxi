# Ring: in memory of this process, or in a file that is shared with a host component.


cdef class ManualClock:
    cdef jdr_clock clock

    def __init__(self, time_ns=1_700_000_000_000_000_000):
        clock_store(&self.clock.wall_ns, time_ns)
        clock_store(&self.clock.monotonic_ns, 1)

    @property
    def time_ns(self):
        return clock_load(&self.clock.wall_ns)

    def advance(self, nanoseconds):
        clock_add(&self.clock.monotonic_ns, nanoseconds)
        clock_add(&self.clock.wall_ns, nanoseconds)

    def set(self, time_ns):
        clock_store(&self.clock.wall_ns, time_ns)


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
            options.clock = &clock.clock if clock is not None else NULL
            result = jdr_ring_create(&self.ring, &options)
        if result:
            raise ring_refused(result, payload_bytes, slots, record_bytes_max, file)
        self.payload_bytes = jdr_ring_payload_bytes(self.ring)

    @classmethod
    def create_file(
        cls, file, *, domain, payload_bytes, slots, lsn_next, time_ns_last=0, record_bytes_max=None, write_back=False
    ):
        cdef jdr_ring_options options = ring_options(payload_bytes, slots, lsn_next, time_ns_last, record_bytes_max)
        options.write_back = write_back
        cdef int result = jdr_ring_format(file, &options, domain_bytes(domain))
        if result:
            raise ring_refused(result, payload_bytes, slots, record_bytes_max, file)
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

    def look_at_clock(self):
        cdef c_ring_clock clock
        with nogil:
            jdr_ring_look_at_clock(self.ring, &clock)
        return RingClock(
            clock.wall_ns, clock.monotonic_ns, clock.lead_ns, clock.time_ns_last, clock.away_ns, clock.away_since_ns,
            clock.doubted_since_ns
        )

    def set_lead(self, int64_t lead_ns):
        cdef int result
        with nogil:
            result = jdr_ring_set_lead(self.ring, lead_ns)
        if result:
            raise OSError(-result, os.strerror(-result))

    def settle_doubt(self, doubted_since_ns):
        jdr_ring_settle_doubt(self.ring, doubted_since_ns)

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
    def lsn_in_primaries(self):
        return jdr_ring_lsn_in_primaries(self.ring)

    @property
    def primaries_lag(self):
        return bool(jdr_ring_primaries_lag(self.ring))

    def primaries_flushed(self):
        return bool(jdr_ring_primaries_flushed(self.ring))

    def note_primary_failure(self, disk):
        jdr_ring_note_primary_failure(self.ring, disk)

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

    def set_pressure(self, bytes_per_s, *, delay_max_s, budget_s, valid_s):
        cdef jdr_pressure pressure
        pressure.bytes_per_s = bytes_per_s or 0
        pressure.delay_max_ns = nanoseconds(delay_max_s)
        pressure.budget_ns = nanoseconds(budget_s)
        pressure.valid_ns = nanoseconds(valid_s)
        jdr_ring_set_pressure(self.ring, &pressure)

    def resume_logging(self):
        jdr_ring_resume_logging(self.ring)

    def adopt(self, lsn):
        if jdr_ring_adopt(self.ring, check(lsn)):
            raise RingApart(
                f"the log ends at LSN {lsn}, the ring holds LSN {self.lsn_durable + 1} to {self.lsn_reserved}",
                hint="the ring is emptied, a gap opens, and all disks are resynced",
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
        cdef jdr_room room
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
            result = jdr_ring_admit(self.ring, padded, limit, &room)
            if result == 0:
                result = jdr_ring_append(self.ring, room, &record, data, length)
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
            return LogFailed(
                f"{what}: the replication log stopped after its device failed: {os.strerror(self.poisoned)}",
                hint="close the domain, mend the log device, open it again",
                errno=self.poisoned,
            )
        return OSError(-result, os.strerror(-result), what)


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


cdef object file_name(file):
    """The path of an open file, for a message."""
    try:
        return os.readlink(f"/proc/self/fd/{file}")
    except OSError:
        return "the ring file"


cdef object ring_refused(int result, payload_bytes, slots, record_bytes_max, file):
    """The error that a ring could not be made or opened with. ``file`` is None for a ring in memory."""
    where = "" if file is None else f"{file_name(file)}: "
    if result == -errno.ENOMEM and file is None:
        return MemoryError(f"a ring of {payload_bytes} bytes does not fit into memory")
    if result == -errno.EINVAL:
        return InvalidRequest(
            f"{where}ring of {payload_bytes} bytes and {slots} slots for records of {record_bytes_max} bytes is not valid",
            hint=(
                "both must be powers of two, at least 65536 bytes and 16 slots; a record has at most half the bytes; "
                "a file is empty"
            ),
        )
    if result == -errno.EMEDIUMTYPE:
        return InvalidRequest(
            f"{where}the ring's file is not on tmpfs, so guests would wait for a disk",
            hint="let runtime_dir lie on tmpfs, such as /run or /dev/shm",
        )
    if result == -errno.EBADMSG:
        return DamagedObject(file_name(file), "header", "it is no ring, or damaged", hint="stop its host component, remove it")
    if result == -errno.EPROTONOSUPPORT:
        return UnsupportedVersion(
            f"{where}the ring file has another version", hint="stop the host component that was started by the other engine"
        )
    if result == -errno.ESTALE:
        return RingForeign(f"{where}the ring file belongs to another domain", hint="give each domain a folder of its own")
    if result == -errno.EACCES:
        return RingForeign(
            f"{where}the ring file belongs to another user, or others may read or write it", hint="it must be ours, mode 0600"
        )
    if result == -errno.EBUSY:
        return RingBusy(f"{where}another process drains this ring", hint="one DRVA per domain: stop the other")
    return OSError(-result, os.strerror(-result))
