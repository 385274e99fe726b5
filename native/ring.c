/* ring.c: the producers' side of the ring: admission, LSN order, copy and hash, durability waits. See ring_shared.h. */
#include "ring_shared.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <xxhash.h>

#define HUGE_PAGE (2u << 20)
#define COPY_CHUNK (128u << 10) /* copied and hashed while it is in the cache */

static bool power_of_two(uint64_t value)
{
    return value && !(value & (value - 1));
}

/*
 * Memory for payloads, in huge pages where the kernel gives them: to a device that reads it directly, few long pieces
 * instead of many short ones, which is worth a third of a fast log's speed.
 */
static uint8_t *map_payload(uint64_t bytes)
{
    uint8_t *base = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    uint8_t *payload = (uint8_t *)(((uintptr_t)base + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    if (payload > base)
        munmap(base, (size_t)(payload - base));
    if (payload < base + HUGE_PAGE)
        munmap(payload + bytes, (size_t)(base + HUGE_PAGE - payload));
    madvise(payload, bytes, MADV_HUGEPAGE); /* a wish */
    madvise(payload, bytes, MADV_DONTFORK); /* a child that wrote here would write to nobody's log */
    memset(payload, 0, bytes); /* so that no page of it faults in a guest's write */
    return payload;
}

int jdr_ring_create(jdr_ring **out, const struct jdr_ring_options *options)
{
    uint64_t half = options->payload_bytes / 2;
    uint64_t record_bytes_max = half < JDR_RECORD_BYTES_MAX ? half : JDR_RECORD_BYTES_MAX;
    if (!power_of_two(options->payload_bytes) || options->payload_bytes < (64u << 10) ||
        options->payload_bytes > (1ull << 40) || !power_of_two(options->slots) || options->slots < 16 ||
        options->slots > (1u << 22) || options->lsn_next < 1 || options->record_bytes_max > record_bytes_max)
        return -EINVAL;
    jdr_ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    ring->slot_count = options->slots;
    ring->payload_bytes = options->payload_bytes;
    ring->nap_bytes = options->payload_bytes / 8 < (4u << 20) ? options->payload_bytes / 8 : 4u << 20;
    ring->record_bytes_given = options->record_bytes_max;
    ring->record_bytes_max = options->record_bytes_max ? options->record_bytes_max : record_bytes_max;
    ring->clock = options->clock;
    ring->shared = aligned_alloc(64, (sizeof *ring->shared + 63) / 64 * 64);
    ring->slots = aligned_alloc(64, options->slots * sizeof *ring->slots);
    ring->payload = map_payload(options->payload_bytes);
    if (!ring->shared || !ring->slots || !ring->payload) {
        jdr_ring_destroy(ring);
        return -ENOMEM;
    }
    memset(ring->shared, 0, sizeof *ring->shared);
    memset(ring->slots, 0, options->slots * sizeof *ring->slots);
    pthread_mutexattr_t adaptive;
    pthread_mutexattr_init(&adaptive);
    pthread_mutexattr_settype(&adaptive, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&ring->shared->reserve, &adaptive);
    pthread_mutexattr_destroy(&adaptive);
    pthread_mutex_init(&ring->shared->gate, NULL);
    ring->shared->lsn_reserved = ring->shared->lsn_durable = options->lsn_next - 1;
    ring->shared->time_ns_last = options->time_ns_last;
    *out = ring;
    return 0;
}

void jdr_ring_destroy(jdr_ring *ring)
{
    if (!ring)
        return;
    if (ring->payload)
        munmap(ring->payload, ring->payload_bytes);
    free(ring->slots);
    free(ring->shared);
    free(ring);
}

int64_t jdr_ring_now(const jdr_ring *ring)
{
    if (ring->clock)
        return atomic_load_explicit(ring->clock, memory_order_acquire);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* ---- admission -------------------------------------------------------------------------------------------------- */

static bool take_room(jdr_ring *ring, uint64_t need)
{
    _Atomic uint64_t *used = &ring->shared->used;
    uint64_t seen = atomic_load_explicit(used, memory_order_relaxed);
    for (;;) {
        uint64_t then = seen + need;
        if (JDR_USED_SLOTS(then) > ring->slot_count || JDR_USED_SECTORS(then) > ring->payload_bytes / JDR_SECTOR)
            return false;
        if (atomic_compare_exchange_weak(used, &seen, then))
            return true;
    }
}

/* CLOCK_REALTIME deadline for pthread_mutex_clocklock's elder brother would jump with the clock; use the monotonic one. */
static int lock_until(pthread_mutex_t *mutex, int64_t deadline_ns)
{
    struct timespec deadline = {deadline_ns / 1000000000ll, deadline_ns % 1000000000ll};
    return -pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &deadline);
}

/* In turn: the gate's holder waits for room, the others wait for the gate, so that a long write is not starved. */
static int admit_queued(jdr_ring *ring, uint64_t need, int64_t limit_ns)
{
    struct jdr_ring_shared *shared = ring->shared;
    int64_t deadline = jdr_monotonic_ns() + limit_ns;
    atomic_fetch_add(&shared->queued, 1);
    int result = lock_until(&shared->gate, deadline);
    if (result == 0) {
        for (;;) {
            uint32_t seen = atomic_load(&shared->space_seq);
            if ((result = -jdr_ring_poisoned(ring)) || take_room(ring, need))
                break;
            int64_t left = deadline - jdr_monotonic_ns();
            if (left <= 0) {
                result = -ETIMEDOUT;
                break;
            }
            jdr_wake_consumer(ring, JDR_NAP);
            jdr_futex_wait(&shared->space_seq, seen, left);
        }
        pthread_mutex_unlock(&shared->gate);
    }
    atomic_fetch_sub(&shared->queued, 1);
    return result;
}

int jdr_ring_admit(jdr_ring *ring, uint64_t payload_bytes, int64_t limit_ns)
{
    if (payload_bytes % JDR_SECTOR)
        return -EINVAL;
    if (payload_bytes > jdr_ring_record_bytes_max(ring))
        return -EMSGSIZE;
    int poison = jdr_ring_poisoned(ring);
    if (poison)
        return -poison;
    uint64_t need = JDR_USED_SLOT + payload_bytes / JDR_SECTOR;
    if (!atomic_load_explicit(&ring->shared->queued, memory_order_relaxed) && take_room(ring, need))
        return 0;
    return admit_queued(ring, need, limit_ns);
}

void jdr_ring_cancel(jdr_ring *ring, uint64_t payload_bytes)
{
    jdr_release(ring, 1, payload_bytes);
}

/* ---- append ----------------------------------------------------------------------------------------------------- */

/* Copy to `position` and on, around the payload area's end, hashing each piece while it is in the cache. */
static void copy_pieces(const jdr_ring *ring, XXH3_state_t *state, uint64_t position, const uint8_t *source, size_t length)
{
    while (length) {
        uint64_t straight = jdr_payload_straight(ring, position);
        size_t piece = length < COPY_CHUNK ? length : COPY_CHUNK;
        if (piece > straight)
            piece = straight;
        uint8_t *target = jdr_payload_at(ring, position);
        memcpy(target, source, piece);
        XXH3_64bits_update(state, target, piece);
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
        return XXH3_64bits(target, length);
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
    int64_t now = jdr_ring_now(ring);
    if (now > ring->shared->time_ns_last)
        ring->shared->time_ns_last = now;
    return ring->shared->time_ns_last;
}

/* LSN, time and payload position, in one order; returns the payload position. */
static uint64_t reserve(jdr_ring *ring, struct jdr_record *record)
{
    struct jdr_ring_shared *shared = ring->shared;
    pthread_mutex_lock(&shared->reserve);
    record->lsn = atomic_load_explicit(&shared->lsn_reserved, memory_order_relaxed) + 1;
    atomic_store_explicit(&shared->lsn_reserved, record->lsn, memory_order_release);
    record->time_ns = advance_time(ring);
    uint64_t position = shared->payload_head;
    shared->payload_head += record->payload_bytes;
    pthread_mutex_unlock(&shared->reserve);
    return position;
}

static void publish(jdr_ring *ring, const struct jdr_record *record)
{
    struct jdr_record *slot = jdr_slot(ring, record->lsn);
    memcpy(&slot->time_ns, &record->time_ns, sizeof *slot - offsetof(struct jdr_record, time_ns));
    __atomic_store_n(&slot->lsn, record->lsn, __ATOMIC_RELEASE);
}

int64_t jdr_ring_append(jdr_ring *ring, struct jdr_record *record, const void *payload, size_t length)
{
    uint64_t position = reserve(ring, record);
    record->payload_checksum =
        record->payload_bytes ? copy_and_hash(ring, position, payload, length, record->payload_bytes) : 0;
    publish(ring, record);
    bool much = jdr_ring_used_bytes(ring) >= ring->nap_bytes;
    jdr_wake_consumer(ring, much ? JDR_NAP : JDR_SLEEP);
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
        int poison = jdr_ring_poisoned(ring);
        if (poison)
            return -poison;
        int64_t left = deadline - jdr_monotonic_ns();
        if (left <= 0)
            return -ETIMEDOUT;
        jdr_futex_wait(&shared->durable_seq, seen, left);
    }
}

void jdr_ring_poison(jdr_ring *ring, int error)
{
    int32_t none = 0;
    atomic_compare_exchange_strong(&ring->shared->poison, &none, error > 0 ? error : EIO);
    jdr_futex_wake(&ring->shared->space_seq);
    jdr_futex_wake(&ring->shared->durable_seq);
    jdr_futex_wake(&ring->shared->work_seq);
}

uint64_t jdr_ring_lsn_reserved(const jdr_ring *ring)
{
    return atomic_load(&ring->shared->lsn_reserved);
}

uint64_t jdr_ring_lsn_durable(const jdr_ring *ring)
{
    return atomic_load(&ring->shared->lsn_durable);
}

uint64_t jdr_ring_observe(jdr_ring *ring, int64_t *time_ns)
{
    struct jdr_ring_shared *shared = ring->shared;
    pthread_mutex_lock(&shared->reserve);
    *time_ns = advance_time(ring);
    uint64_t lsn = atomic_load(&shared->lsn_reserved);
    pthread_mutex_unlock(&shared->reserve);
    return lsn;
}

int64_t jdr_ring_time_last(const jdr_ring *ring)
{
    pthread_mutex_lock(&ring->shared->reserve);
    int64_t last = ring->shared->time_ns_last;
    pthread_mutex_unlock(&ring->shared->reserve);
    return last;
}

uint64_t jdr_ring_used_bytes(const jdr_ring *ring)
{
    return JDR_USED_SECTORS(atomic_load_explicit(&ring->shared->used, memory_order_relaxed)) * JDR_SECTOR;
}

uint64_t jdr_ring_record_bytes_max(const jdr_ring *ring)
{
    return atomic_load_explicit(&ring->record_bytes_max, memory_order_relaxed);
}

int jdr_ring_poisoned(const jdr_ring *ring)
{
    return atomic_load_explicit(&ring->shared->poison, memory_order_relaxed);
}
