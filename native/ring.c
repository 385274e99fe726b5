/* ring.c: the producers' side of the ring: admission, LSN order, copy and hash, durability waits. See ring_shared.h. */
#include "ring_shared.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <xxhash.h>

#define COPY_CHUNK (128u << 10) /* copied and hashed while it is in the cache */

static bool power_of_two(uint64_t value)
{
    return value && !(value & (value - 1));
}

/* Map `bytes` of a fresh memory file twice in a row. */
static uint8_t *map_twice(uint64_t bytes)
{
    int fd = memfd_create("jetdr-ring", MFD_CLOEXEC);
    if (fd < 0)
        return NULL;
    uint8_t *base = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) == 0)
        base = mmap(NULL, 2 * bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base != MAP_FAILED)
        for (int half = 0; half < 2; half++)
            if (mmap(base + half * bytes, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0) == MAP_FAILED) {
                munmap(base, 2 * bytes);
                base = MAP_FAILED;
                break;
            }
    close(fd);
    return base == MAP_FAILED ? NULL : base;
}

int jdr_ring_create(jdr_ring **out, const struct jdr_ring_options *options)
{
    if (!power_of_two(options->payload_bytes) || options->payload_bytes < (64u << 10) ||
        options->payload_bytes > (1ull << 40) || !power_of_two(options->slots) || options->slots < 16 ||
        options->slots > (1u << 22) || options->lsn_next < 1)
        return -EINVAL;
    jdr_ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    ring->slot_count = options->slots;
    ring->payload_bytes = options->payload_bytes;
    ring->nap_bytes = options->payload_bytes / 8 < (4u << 20) ? options->payload_bytes / 8 : 4u << 20;
    ring->clock = options->clock;
    ring->shared = aligned_alloc(64, (sizeof *ring->shared + 63) / 64 * 64);
    ring->slots = aligned_alloc(64, options->slots * sizeof *ring->slots);
    ring->payload = map_twice(options->payload_bytes);
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
        munmap(ring->payload, 2 * ring->payload_bytes);
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
    if (payload_bytes > ring->payload_bytes || payload_bytes % JDR_SECTOR)
        return -EINVAL;
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

static uint64_t copy_and_hash(uint8_t *target, const uint8_t *source, size_t length)
{
    if (length <= COPY_CHUNK) {
        memcpy(target, source, length);
        return XXH3_64bits(target, length);
    }
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (size_t done = 0; done < length; done += COPY_CHUNK) {
        size_t chunk = length - done < COPY_CHUNK ? length - done : COPY_CHUNK;
        memcpy(target + done, source + done, chunk);
        XXH3_64bits_update(&state, target + done, chunk);
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
    record->payload_checksum = 0;
    if (record->payload_bytes) {
        uint8_t *target = jdr_payload_at(ring, position);
        if (length < record->payload_bytes) { /* a control record: short, padded */
            memset(target + length, 0, record->payload_bytes - length);
            memcpy(target, payload, length);
            record->payload_checksum = XXH3_64bits(target, record->payload_bytes);
        } else {
            record->payload_checksum = copy_and_hash(target, payload, length);
        }
    }
    publish(ring, record);
    bool much = jdr_ring_used_bytes(ring) >= ring->nap_bytes;
    jdr_wake_consumer(ring, much ? JDR_NAP : JDR_SLEEP);
    return (int64_t)record->lsn;
}

/* ---- durability ------------------------------------------------------------------------------------------------- */

void jdr_ring_request_durable(jdr_ring *ring, uint64_t lsn)
{
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
    atomic_compare_exchange_strong(&ring->shared->poison, &none, error);
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

int jdr_ring_poisoned(const jdr_ring *ring)
{
    return atomic_load_explicit(&ring->shared->poison, memory_order_relaxed);
}
