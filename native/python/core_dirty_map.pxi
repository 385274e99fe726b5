# DirtyMap: which regions of a disk may differ between primary and replica.


class MapStart(IntEnum):
    AGREES = JDR_MAP_AGREES
    MARKED = JDR_MAP_MARKED
    UNCERTAIN = JDR_MAP_UNCERTAIN


class MapFound(IntEnum):
    BELIEVED = JDR_MAP_BELIEVED
    NONE = JDR_MAP_NONE
    DAMAGED = JDR_MAP_DAMAGED
    NEWER = JDR_MAP_NEWER
    FOREIGN = JDR_MAP_FOREIGN
    RESIZED = JDR_MAP_RESIZED
    OTHER_LOG = JDR_MAP_OTHER_LOG
    STALE = JDR_MAP_STALE
    REPLACED = JDR_MAP_REPLACED
    CHANGED = JDR_MAP_CHANGED
    OLDER = JDR_MAP_OLDER
    LOG_OLDER = JDR_MAP_LOG_OLDER


cdef int take_id(uint8_t *target, bytes value) except -1:
    if len(value) != 16:
        raise InvalidRequest(f"an identity of {len(value)} bytes", hint="use 16 bytes")
    memcpy(target, <const char *>value, 16)
    return 0


cdef int take_generation(jdr_generation *target, generation) except -1:
    target.epoch = generation[0]
    return take_id(target.nonce, generation[1])


@cython.no_gc_clear  # the map uses its sidecar until it is freed
cdef class DirtyMap:
    cdef jdr_dirty_map *map
    cdef _Bound bound
    cdef readonly uint64_t size_bytes
    cdef readonly object found
    cdef object __weakref__

    def __cinit__(
        self,
        sidecar,
        *,
        primary_fd,
        domain,
        disk,
        size_bytes,
        section_id,
        timeline,
        earlier,
        generation,
        start,
        log_lsn,
        log_time_ns,
    ):
        cdef jdr_map_options options
        cdef jdr_map_found found
        cdef int result
        self.bound = None if sidecar is None else _Bound(sidecar)
        self.size_bytes = size_bytes
        take_id(options.identity.domain, domain)
        take_id(options.identity.disk, disk)
        options.identity.size_bytes = size_bytes
        options.identity.section_id = section_id
        options.identity.timeline = timeline
        take_generation(&options.earlier, earlier)
        take_generation(&options.generation, generation)
        options.start = start
        options.log_lsn = log_lsn
        options.log_time_ns = log_time_ns
        options.primary_fd = primary_fd
        cdef const jdr_device *device = NULL if sidecar is None else &self.bound.native
        with nogil:
            result = jdr_dirty_map_begin(&self.map, device, &options, &found)
        if result:
            raise MemoryError("dirty map")
        self.found = MapFound(found)

    def __dealloc__(self):
        jdr_dirty_map_destroy(self.map)

    @staticmethod
    def file_bytes(size_bytes):
        return jdr_dirty_map_file_bytes(check(size_bytes))

    def go_on(self, section_id, timeline, generation):
        cdef jdr_generation next
        cdef uint64_t section = section_id
        cdef uint64_t line = timeline
        take_generation(&next, generation)
        with nogil:
            jdr_dirty_map_go_on(self.map, section, line, &next)

    def owe(self, offset, length):
        cdef uint64_t at = check(offset)
        cdef uint64_t size = check(length)
        if not size or at > self.size_bytes or size > self.size_bytes - at:
            raise InvalidRequest(f"{size} bytes at {at} are not on a disk of {self.size_bytes} bytes")
        with nogil:
            jdr_dirty_map_owe(self.map, at, size)

    def next_owed(self, offset):
        cdef uint64_t at = check(offset)
        cdef uint64_t begin = 0
        cdef uint64_t length = 0
        cdef bint found
        with nogil:
            found = jdr_dirty_map_next_owed(self.map, at, &begin, &length)
        return (begin, length) if found else None

    def state(self):
        cdef c_map_state state
        with nogil:
            get_map_state(self.map, &state)
        return MapState(
            state.region_bytes, state.marked_bytes, state.owed_bytes, state.intents, state.failed, state.failed_since_ns
        )

    def give_up(self):
        with nogil:
            jdr_dirty_map_give_up(self.map)

    def end(self):
        with nogil:
            jdr_dirty_map_end(self.map)
