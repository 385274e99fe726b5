/* ring.c: the producers' side of the ring: admission, LSN order, copy and hash, durability waits. See ring_shared.h. */
#include "ring_shared.h"

#include <string.h>

#include "checksum.h"

#define COPY_CHUNK (128u << 10) /* copied and hashed while it is in the cache */
#define LOCK_SPINS 200
#define LOCK_LIMIT_NS 500000000ll /* for a lock that is held for a few instructions: its holder was stopped there */

int64_t jdr_ring_now(const jdr_ring *ring)
{
    if (ring->clock)
        return atomic_load_explicit(ring->clock, memory_order_acquire);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* ---- locks ------------------------------------------------------------------------------------------------------ */

static int lock_until(pthread_mutex_t *mutex, int64_t deadline_ns)
{
    struct timespec deadline = {deadline_ns / 1000000000ll, deadline_ns % 1000000000ll};
    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &deadline);
}

int jdr_ring_lock(pthread_mutex_t *mutex, int64_t deadline_ns)
{
    int result = EBUSY;
    for (int i = 0; i < LOCK_SPINS && (result = pthread_mutex_trylock(mutex)) == EBUSY; i++)
        __builtin_ia32_pause();
    if (result == EBUSY)
        result = lock_until(mutex, deadline_ns);
    if (result == EOWNERDEAD) /* every state under these locks is valid: see the invariants */
        result = pthread_mutex_consistent(mutex);
    return -result;
}

/* LSN and time; never held across anything slow. */
static int lock_reserve(const jdr_ring *ring)
{
    if (jdr_in_file(ring))
        return jdr_ring_lock(&ring->shared->reserve, jdr_monotonic_ns() + LOCK_LIMIT_NS);
    return -pthread_mutex_lock(&ring->shared->reserve);
}

/* ---- append ----------------------------------------------------------------------------------------------------- */

/* Copy to `position` and on, around the payload area's end, hashing each piece while it is in the cache. */
static void copy_pieces(const jdr_ring *ring, XXH3_state_t *state, uint64_t position, const uint8_t *source,
                        size_t length)
{
    while (length) {
        uint64_t straight = jdr_payload_straight(ring, position);
        size_t piece = length < COPY_CHUNK ? length : COPY_CHUNK;
        if (piece > straight)
            piece = straight;
        uint8_t *target = jdr_payload_at(ring, position);
        memcpy(target, source, piece);
        jdr_checksum_more(state, target, piece);
        position += piece;
        source += piece;
        length -= piece;
    }
}

/* Copy a payload to `position`, padded with zeros to `padded`; returns the hash of all of it. */
static uint64_t copy_and_hash(const jdr_ring *ring, uint64_t position, const void *source, size_t length, size_t padded)
{
    static const uint8_t zeros[JDR_SECTOR];
    if (length == padded && length <= COPY_CHUNK && length <= jdr_payload_straight(ring, position)) {
        uint8_t *target = jdr_payload_at(ring, position);
        memcpy(target, source, length);
        return jdr_checksum(target, length);
    }
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    copy_pieces(ring, &state, position, source, length);
    for (size_t piece; length < padded; length += piece) {
        piece = padded - length < sizeof zeros ? padded - length : sizeof zeros;
        copy_pieces(ring, &state, position + length, zeros, piece);
    }
    return XXH3_64bits_digest(&state);
}

/* The time, never before any time given out; with `reserve` held. */
static int64_t advance_time(jdr_ring *ring)
{
    int64_t now = jdr_ring_now(ring), last = atomic_load_explicit(&ring->shared->time_ns_last, memory_order_relaxed);
    if (now <= last)
        return last;
    atomic_store_explicit(&ring->shared->time_ns_last, now, memory_order_relaxed);
    return now;
}

/* What is known of a record before it is published, for those who find that its producer has died. */
static void fill_claim(jdr_ring *ring, const struct jdr_record *record)
{
    struct jdr_claim claim = {ring->shared->producers[ring->side].incarnation, (uint8_t)(ring->side + 1)};
    struct jdr_record *slot = jdr_slot(ring, record->lsn);
    slot->time_ns = record->time_ns;
    slot->disk = record->disk;
    memcpy(slot->reserved, &claim, sizeof claim);
}

/* With logging off only the gap that this opens gets into the log. */
static bool may_append(const jdr_ring *ring, const struct jdr_record *record)
{
    return jdr_logging(ring) || (ring->side == JDR_DRVA && record->kind == JDR_GAP_OPEN);
}

/* LSN, time and payload position, in one order, for room that was admitted: 0, -ECANCELED: logging is off, -ETIMEDOUT.
 */
static int reserve(jdr_ring *ring, struct jdr_record *record, uint64_t *position)
{
    struct jdr_ring_shared *shared = ring->shared;
    int result = lock_reserve(ring);
    if (result)
        return result;
    if (may_append(ring, record)) {
        uint64_t last = atomic_load_explicit(&shared->lsn_reserved, memory_order_relaxed);
        *position = jdr_end(ring, last);
        record->lsn = last + 1;
        record->time_ns = advance_time(ring);
        if (jdr_in_file(ring))
            fill_claim(ring, record);
        atomic_store_explicit(&ring->ends[record->lsn & (ring->slot_count - 1)], *position + record->payload_bytes,
                              memory_order_relaxed);
        atomic_store(&shared->lsn_reserved, record->lsn);
    } else {
        result = -ECANCELED;
    }
    pthread_mutex_unlock(&shared->reserve);
    return result;
}

int64_t jdr_ring_append(jdr_ring *ring, struct jdr_room room, struct jdr_record *record, const void *payload,
                        size_t length)
{
    uint64_t position = 0;
    int result = reserve(ring, record, &position);
    jdr_give_back(ring, room); /* from here on the record itself counts */
    if (result)
        return result;
    record->payload_checksum = record->payload_bytes
                                   ? copy_and_hash(ring, position, payload, length, record->payload_bytes)
                                   : 0;
    jdr_publish(ring, record);
    jdr_wake_consumer(ring, jdr_much_unwritten(ring) ? JDR_NAP : JDR_SLEEP);
    return (int64_t)record->lsn;
}

/* ---- durability ------------------------------------------------------------------------------------------------- */

void jdr_ring_request_durable(jdr_ring *ring, uint64_t lsn)
{
    uint64_t reserved = jdr_ring_lsn_reserved(ring);
    if (lsn > reserved)
        lsn = reserved; /* a wish that no commit can meet would keep flushes from the others */
    uint64_t seen = atomic_load(&ring->shared->sync_wanted);
    while (seen < lsn && !atomic_compare_exchange_weak(&ring->shared->sync_wanted, &seen, lsn))
        ;
    if (jdr_ring_lsn_durable(ring) >= lsn)
        return;
    atomic_fetch_add(&ring->shared->work_seq, 1); /* a consumer about to sleep sees this and looks again */
    jdr_wake_consumer(ring, JDR_NAP);
}

int jdr_ring_wait_durable(jdr_ring *ring, uint64_t lsn, int64_t limit_ns)
{
    struct jdr_ring_shared *shared = ring->shared;
    int64_t deadline = jdr_monotonic_ns() + limit_ns;
    jdr_ring_request_durable(ring, lsn);
    for (;;) {
        uint32_t seen = atomic_load(&shared->durable_seq);
        if (jdr_ring_lsn_durable(ring) >= lsn)
            return 0;
        int result = jdr_refusal(ring);
        if (result)
            return result;
        int64_t left = deadline - jdr_monotonic_ns();
        if (left <= 0)
            return -ETIMEDOUT;
        jdr_futex_wait(&shared->durable_seq, seen, left);
    }
}

uint32_t jdr_ring_moved(const jdr_ring *ring)
{
    return atomic_load(&ring->shared->durable_seq);
}

void jdr_ring_wait_moved(jdr_ring *ring, uint32_t seen, int64_t limit_ns)
{
    jdr_futex_wait(&ring->shared->durable_seq, seen, limit_ns);
}

void jdr_ring_wake_moved(jdr_ring *ring)
{
    jdr_futex_wake(&ring->shared->durable_seq);
}

void jdr_ring_poison(jdr_ring *ring, int error)
{
    int32_t none = 0;
    atomic_compare_exchange_strong(&ring->poison, &none, error > 0 ? error : EIO);
    jdr_futex_wake(&ring->shared->space_seq);
    jdr_futex_wake(&ring->shared->durable_seq);
    jdr_futex_wake(&ring->shared->work_seq);
}

/* ---- logging on and off ----------------------------------------------------------------------------------------- */

void jdr_ring_off(const jdr_ring *ring, struct jdr_ring_off *off)
{
    struct jdr_ring_shared *shared = ring->shared;
    bool logging = jdr_logging(ring); /* before the count, which is advanced before logging goes off */
    *off = (struct jdr_ring_off){
        .logging = logging,
        .reason = shared->off_reason,
        .disk = shared->off_disk,
        .since_ns = shared->off_since_ns,
        .count = shared->off_count,
    };
}

void jdr_ring_stop_logging(jdr_ring *ring, enum jdr_off_reason reason, uint32_t disk)
{
    struct jdr_ring_shared *shared = ring->shared;
    int locked = lock_reserve(ring); /* not had: whoever holds it is stopped, and appends at most that one record */
    if (jdr_logging(ring)) {
        atomic_store(&shared->off_reason, reason);
        atomic_store(&shared->off_disk, disk);
        atomic_store(&shared->off_since_ns, advance_time(ring));
        atomic_fetch_add(&shared->off_count, 1);
        atomic_store(&shared->off, 1);
    }
    if (locked == 0)
        pthread_mutex_unlock(&shared->reserve);
    jdr_futex_wake(&shared->space_seq);
    jdr_futex_wake(&shared->durable_seq);
}

void jdr_ring_resume_logging(jdr_ring *ring)
{
    atomic_store(&ring->shared->off, 0);
    jdr_ring_wake_moved(ring); /* the applier */
}

/* ---- what it says of itself ------------------------------------------------------------------------------------- */

uint64_t jdr_ring_lsn_reserved(const jdr_ring *ring)
{
    return atomic_load(&ring->shared->lsn_reserved);
}

uint64_t jdr_ring_lsn_durable(const jdr_ring *ring)
{
    return atomic_load(&ring->shared->lsn_durable);
}

bool jdr_ring_write_back(const jdr_ring *ring)
{
    return ring->write_back;
}

uint64_t jdr_ring_observe(jdr_ring *ring, int64_t *time_ns)
{
    uint64_t lsn;
    if (lock_reserve(ring)) { /* its holder is stopped there: the last record and its own time are true all the same */
        lsn = jdr_ring_lsn_reserved(ring);
        *time_ns = jdr_slot(ring, lsn)->time_ns;
        return lsn;
    }
    *time_ns = advance_time(ring);
    lsn = jdr_ring_lsn_reserved(ring);
    pthread_mutex_unlock(&ring->shared->reserve);
    return lsn;
}

int64_t jdr_ring_time_last(const jdr_ring *ring)
{
    return atomic_load(&ring->shared->time_ns_last);
}

uint64_t jdr_ring_record_bytes_max(const jdr_ring *ring)
{
    return jdr_record_bytes_max(ring);
}

uint64_t jdr_ring_payload_bytes(const jdr_ring *ring)
{
    return ring->payload_bytes;
}

bool jdr_ring_is_host(const jdr_ring *ring)
{
    return ring->side == JDR_HOST;
}

bool jdr_ring_in_file(const jdr_ring *ring)
{
    return jdr_in_file(ring);
}

bool jdr_ring_logging(const jdr_ring *ring)
{
    return jdr_logging(ring);
}

int jdr_ring_poisoned(const jdr_ring *ring)
{
    return atomic_load_explicit(&ring->poison, memory_order_relaxed);
}
