/*
 * ring_shared.h: the ring's memory, as its producers (ring.c) and its consumer (log_writer.c) see it.
 *
 * Invariants: LSNs and payload positions are given out together under `reserve`, so both are dense and in one order;
 * a slot is published by storing its LSN last; `used` counts what is admitted and not yet written to the log, so a
 * reserved record always has room. All words are offsets and counters, no pointers: the layout can live in a shared
 * file. A payload may go around the payload area's end.
 */
#ifndef JETDR_RING_SHARED_H
#define JETDR_RING_SHARED_H

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "jetdr.h"

#define JDR_LINE _Alignas(64)

enum jdr_consumer_sleep { JDR_AWAKE = 0, JDR_NAP = 1, JDR_SLEEP = 2 };

/* `used` packs two counters, so that one atomic operation admits both. */
#define JDR_USED_SLOT (1ull << 40)
#define JDR_USED_SECTORS(used) ((used) & (JDR_USED_SLOT - 1))
#define JDR_USED_SLOTS(used) ((used) >> 40)

struct jdr_ring_shared {
    /* producers */
    JDR_LINE pthread_mutex_t reserve;
    uint64_t payload_head; /* virtual byte position */
    int64_t time_ns_last;
    _Atomic uint64_t lsn_reserved;
    /* admission */
    JDR_LINE _Atomic uint64_t used;
    _Atomic uint32_t queued; /* producers that wait for room, or for those that do */
    _Atomic uint32_t space_seq;
    pthread_mutex_t gate; /* its holder is next to be admitted */
    /* consumer */
    JDR_LINE _Atomic uint32_t work_seq;
    _Atomic uint32_t consumer_sleep;
    _Atomic uint64_t sync_wanted;
    JDR_LINE _Atomic uint64_t lsn_durable;
    _Atomic uint32_t durable_seq;
    _Atomic int32_t poison;
};

struct jdr_ring {
    struct jdr_ring_shared *shared;
    struct jdr_record *slots;
    uint8_t *payload;
    uint64_t slot_count, payload_bytes, nap_bytes;
    _Atomic uint64_t record_bytes_max;
    bool record_bytes_given; /* by the caller: not the log writer's to lower */
    const _Atomic int64_t *clock;
    size_t mapped_bytes;
};

static inline struct jdr_record *jdr_slot(const struct jdr_ring *ring, uint64_t lsn)
{
    return &ring->slots[lsn & (ring->slot_count - 1)];
}

static inline bool jdr_published(const struct jdr_ring *ring, uint64_t lsn)
{
    return __atomic_load_n(&jdr_slot(ring, lsn)->lsn, __ATOMIC_ACQUIRE) == lsn;
}

static inline uint8_t *jdr_payload_at(const struct jdr_ring *ring, uint64_t position)
{
    return ring->payload + (position & (ring->payload_bytes - 1));
}

/* Bytes from there to the payload area's end, at least one sector. */
static inline uint64_t jdr_payload_straight(const struct jdr_ring *ring, uint64_t position)
{
    return ring->payload_bytes - (position & (ring->payload_bytes - 1));
}

static inline int64_t jdr_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* Wait until *word leaves `seen`, someone wakes it, or the time is over; spurious returns are allowed. */
static inline void jdr_futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t limit_ns)
{
    struct timespec limit = {limit_ns / 1000000000ll, limit_ns % 1000000000ll};
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT, seen, &limit, NULL, 0);
}

/* Advance *word and wake all that wait for it. */
static inline void jdr_futex_wake(_Atomic uint32_t *word)
{
    atomic_fetch_add(word, 1);
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* Give room back: records were written to the log, or were never appended. */
static inline void jdr_release(struct jdr_ring *ring, uint64_t records, uint64_t payload_bytes)
{
    struct jdr_ring_shared *shared = ring->shared;
    atomic_fetch_sub(&shared->used, records * JDR_USED_SLOT + payload_bytes / JDR_SECTOR);
    if (atomic_load(&shared->queued))
        jdr_futex_wake(&shared->space_seq);
}

/* Wake the consumer if it sleeps at least as deep as `depth`. */
static inline void jdr_wake_consumer(struct jdr_ring *ring, uint32_t depth)
{
    atomic_thread_fence(memory_order_seq_cst); /* the publish before the look at the sleeper */
    if (atomic_load_explicit(&ring->shared->consumer_sleep, memory_order_relaxed) >= depth)
        jdr_futex_wake(&ring->shared->work_seq);
}

#endif
