# jetdr.h, as core.pyx sees it.

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<stdbool.h>" nogil:
    ctypedef bint c_bool "bool"

cdef extern from *:
    """
    #include <stdatomic.h>
    static void clock_store(_Atomic int64_t *c, int64_t v) { atomic_store(c, v); }
    static int64_t clock_load(_Atomic int64_t *c) { return atomic_load(c); }
    static int64_t clock_add(_Atomic int64_t *c, int64_t v) { return atomic_fetch_add(c, v); }
    static uint32_t word_load(const _Atomic uint32_t *w) { return atomic_load(w); }
    """
    ctypedef struct atomic_int64 "_Atomic int64_t":
        pass
    void clock_store(atomic_int64 *, int64_t) nogil
    int64_t clock_load(atomic_int64 *) nogil
    int64_t clock_add(atomic_int64 *, int64_t) nogil
    uint32_t word_load(const void *) nogil

cdef extern from "jetdr.h" nogil:
    enum:
        JDR_SECTOR
        JDR_BLOCK
        JDR_DIGEST_BYTES_MAX
        JDR_BATCH_RECORDS_MAX
        JDR_RECORD_BYTES_MAX
        JDR_BATCH_BYTES_MAX
        JDR_UNSYNCED_BYTES_MAX
        JDR_ERRNO_MAX
        JDR_EFENCED
        JDR_SUSPECT
        JDR_PRIMARY
    enum jdr_kind:
        JDR_WRITE
        JDR_ZERO
        JDR_GAP_OPEN
        JDR_VOID
    enum jdr_flag:
        JDR_BACKGROUND
        JDR_DISCARD
        JDR_REREAD
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
        int (*zero)(const jdr_device *, uint64_t, uint64_t, c_bool) noexcept nogil
        int (*sync)(const jdr_device *) noexcept nogil
        void *context
        int fd
        uint32_t block_bytes
    void jdr_device_from_fd(jdr_device *, int, uint32_t)

    struct jdr_ring:
        pass
    struct jdr_clock:
        atomic_int64 wall_ns, monotonic_ns
    struct jdr_ring_options:
        uint64_t payload_bytes
        uint64_t slots
        uint64_t record_bytes_max
        uint64_t lsn_next
        int64_t time_ns_last
        const jdr_clock *clock
        bint write_back
    enum jdr_side:
        JDR_HOST
        JDR_DRVA
    enum jdr_off_reason:
        JDR_OFF_FULL
        JDR_OFF_FLUSH
        JDR_OFF_DISK
        JDR_OFF_DRVA
        JDR_OFF_OVERLOAD
    struct c_ring_off "jdr_ring_off":
        bint logging
        uint32_t reason, disk
        int64_t since_ns
        uint64_t count
    struct c_ring_clock "jdr_ring_clock":
        int64_t wall_ns, monotonic_ns, lead_ns, time_ns_last, away_ns, away_since_ns, doubted_since_ns
    void jdr_ring_look_at_clock(jdr_ring *, c_ring_clock *)
    int jdr_ring_set_lead(jdr_ring *, int64_t)
    void jdr_ring_settle_doubt(jdr_ring *, int64_t)
    struct jdr_pressure:
        uint64_t bytes_per_s
        int64_t delay_max_ns, budget_ns, valid_ns
    void jdr_ring_set_pressure(jdr_ring *, const jdr_pressure *)
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
    uint64_t jdr_ring_lsn_in_primaries(const jdr_ring *)
    bint jdr_ring_primaries_lag(const jdr_ring *)
    bint jdr_ring_primaries_flushed(jdr_ring *)
    void jdr_ring_note_primary_failure(jdr_ring *, uint32_t)
    bint jdr_ring_write_back(const jdr_ring *)
    uint64_t jdr_ring_payload_bytes(const jdr_ring *)
    int jdr_ring_create(jdr_ring **, const jdr_ring_options *)
    void jdr_ring_destroy(jdr_ring *)
    struct jdr_room:
        pass
    int jdr_ring_admit(jdr_ring *, uint64_t, int64_t, jdr_room *)
    int64_t jdr_ring_append(jdr_ring *, jdr_room, jdr_record *, const void *, size_t)
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

    struct jdr_dirty_map:
        pass
    struct jdr_map_identity:
        uint8_t domain[16]
        uint8_t disk[16]
        uint64_t size_bytes, section_id, timeline
    struct jdr_generation:
        uint64_t epoch
        uint8_t nonce[16]
    enum jdr_map_start:
        JDR_MAP_AGREES
        JDR_MAP_MARKED
        JDR_MAP_UNCERTAIN
    enum jdr_map_found:
        JDR_MAP_BELIEVED
        JDR_MAP_NONE
        JDR_MAP_DAMAGED
        JDR_MAP_NEWER
        JDR_MAP_FOREIGN
        JDR_MAP_RESIZED
        JDR_MAP_OTHER_LOG
        JDR_MAP_STALE
        JDR_MAP_REPLACED
        JDR_MAP_CHANGED
        JDR_MAP_OLDER
        JDR_MAP_LOG_OLDER
    struct jdr_map_options:
        jdr_map_identity identity
        jdr_generation earlier, generation
        jdr_map_start start
        uint64_t log_lsn
        int64_t log_time_ns
        int primary_fd
    struct c_map_state "jdr_map_state":
        uint64_t region_bytes, marked_bytes, owed_bytes, intents
        int failed
        int64_t failed_since_ns
    uint64_t jdr_dirty_map_file_bytes(uint64_t)
    int jdr_dirty_map_begin(jdr_dirty_map **, const jdr_device *, const jdr_map_options *, jdr_map_found *)
    int jdr_dirty_map_go_on(jdr_dirty_map *, uint64_t, uint64_t, const jdr_generation *)
    void jdr_dirty_map_owe(jdr_dirty_map *, uint64_t, uint64_t)
    c_bool jdr_dirty_map_next_owed(const jdr_dirty_map *, uint64_t, uint64_t *, uint64_t *)
    void get_map_state "jdr_dirty_map_state"(jdr_dirty_map *, c_map_state *)
    int jdr_dirty_map_end(jdr_dirty_map *)
    void jdr_dirty_map_give_up(jdr_dirty_map *)
    void jdr_dirty_map_destroy(jdr_dirty_map *)

    struct jdr_filter:
        pass
    struct jdr_filter_options:
        jdr_ring *ring
        jdr_device primary
        uint32_t disk
        uint64_t size_bytes
        uint64_t record_bytes_max
        int64_t stall_limit_ns
        bint bypass
        void *applier
        jdr_dirty_map *map
    struct jdr_filter_stats:
        pass
    int jdr_filter_open(jdr_filter **, const jdr_filter_options *)
    int64_t jdr_filter_pwrite(jdr_filter *, const void *, size_t, uint64_t)
    enum jdr_zeroing:
        JDR_ZERO_FREES_SPACE
        JDR_ZERO_DISCARDS
    int64_t jdr_filter_zero(jdr_filter *, uint64_t, uint64_t, jdr_zeroing)
    int jdr_filter_pread(jdr_filter *, void *, size_t, uint64_t)
    int64_t jdr_filter_flush(jdr_filter *)
    int64_t jdr_filter_copy(jdr_filter *, uint64_t, uint64_t)
    int64_t jdr_filter_digest(jdr_filter *, uint64_t, size_t, uint8_t *)
    int jdr_filter_tend_map(jdr_filter *)
    void c_filter_stats "jdr_filter_stats"(jdr_filter *, jdr_filter_stats *)
    void jdr_filter_trust(jdr_filter *)
    int jdr_filter_grow(jdr_filter *, uint64_t)
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

cdef extern from *:
    """
    #define JDR_NAME(name) #name,
    static const char *const jdr_filter_stat_names[] = {JDR_FILTER_STATS(JDR_NAME)};
    enum { JDR_FILTER_STATS_COUNT = sizeof jdr_filter_stat_names / sizeof *jdr_filter_stat_names };
    _Static_assert(sizeof(struct jdr_filter_stats) == JDR_FILTER_STATS_COUNT * sizeof(uint64_t), "an array of numbers");
    """
    const char *const jdr_filter_stat_names[]
    enum: JDR_FILTER_STATS_COUNT

cdef extern from "simulation.h" nogil:
    ctypedef struct atomic_uint32 "_Atomic uint32_t":
        pass
    struct c_simulation "jdr_simulation":
        const jdr_clock *clock
        void (*pause)(atomic_uint32 *, uint32_t, int64_t) noexcept nogil
    c_simulation jdr_simulation
