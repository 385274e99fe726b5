/*
 * ring_shared.h: the memory of a ring. These files see it: admission.c, ring.c, ring_file.c, ring_memory.c, the
 * consumer (log_writer.c) and write-back (pending.c). ring.c explains the protocol, docs/formats/ring.md the file.
 *
 * Invariants: LSNs and payload positions are given out together under `reserve`, so both are dense and in one order.
 * The one store to `lsn_reserved` makes a reservation valid, so a producer that dies under `reserve` leaves nothing
 * half done. A slot is published by storing its LSN last. A producer counts its room until its record has an LSN. From
 * then on the room is part of the distance between `lsn_reserved` and the tail, so the room of a dead producer is
 * known. Fewer records than slots are in use, so the end position of the tail is never overwritten. All words are
 * offsets and counters, not pointers. A payload may go around the end of the payload area.
 */
#ifndef JETDR_RING_SHARED_H
#define JETDR_RING_SHARED_H

#include <errno.h>
#include <string.h>

#include "jetdr.h"
#include "record_clock.h"
#include "ring.h"
#include "room.h"
#include "threads.h"

enum jdr_consumer_sleep { JDR_AWAKE = 0, JDR_NAP = 1, JDR_SLEEP = 2 };

struct jdr_producer {
    JDR_LINE _Atomic uint64_t admitted; /* room that is taken and not yet a record's */
    _Atomic uint32_t queued;            /* threads that wait for room or at the gate */
    _Atomic uint32_t incarnation;       /* how often this side was taken */
};

struct jdr_ring_shared {
    /* what the ring is (constant) */
    char magic[8];
    uint32_t version, header_bytes;
    uint64_t slot_count, payload_bytes;
    uint8_t domain[16];
    uint64_t write_back;
    uint64_t checksum; /* XXH3-64 of all before it */
    /* producers */
    JDR_LINE pthread_mutex_t reserve;
    _Atomic int64_t time_ns_last;
    _Atomic uint64_t lsn_reserved;
    _Atomic uint64_t record_bytes_max;
    /* admission */
    struct jdr_producer producers[2]; /* by side. Without a file, only the first is used */
    JDR_LINE _Atomic uint32_t space_seq;
    pthread_mutex_t gate; /* its holder is next to be admitted */
    /* consumer */
    JDR_LINE _Atomic uint32_t work_seq;
    _Atomic uint32_t consumer_sleep;
    _Atomic uint64_t sync_wanted;
    JDR_LINE _Atomic uint64_t lsn_durable;
    _Atomic uint64_t lsn_released; /* the log does not need the ring's copy any more */
    _Atomic uint32_t durable_seq;
    _Atomic uint64_t lsn_written; /* to the log, durable or not. A hint for waking the consumer */
    /* applier */
    JDR_LINE _Atomic uint64_t lsn_applied; /* the primaries were given what is up to here */
    _Atomic uint64_t lsn_in_primaries;     /* durable in the primaries */
    /* logging on and off */
    JDR_LINE _Atomic uint32_t off;
    _Atomic uint32_t off_reason, off_disk;
    _Atomic int64_t off_since_ns;
    _Atomic uint64_t off_count;
    _Atomic uint32_t host_ended;
    _Atomic uint32_t resetting;
    _Atomic uint64_t primary_failed; /* write-back: 1 + the disk whose primary lacks what the log holds, or SEVERAL */
    /* times. Earlier releases have zeros here, and end before it */
    JDR_LINE struct jdr_record_clock clock; /* under `reserve` */
    /* backpressure. Earlier releases have zeros here, which delay nobody, and do not read it */
    JDR_LINE _Atomic uint64_t pressure_bytes_per_s; /* 0: no write is delayed */
    _Atomic int64_t pressure_delay_max_ns, pressure_budget_ns;
    _Atomic int64_t pressure_until_ns; /* CLOCK_MONOTONIC. The others hold until then */
    _Atomic uint32_t log_full;         /* the log writer has found no room for the next record */
};

/* What the first release of version 1 wrote as the size of the header. The rest of its block is zero. */
#define JDR_RING_HEADER_BYTES 576

struct jdr_ring {
    struct jdr_ring_shared *shared;
    struct jdr_record *slots;
    _Atomic uint64_t *ends; /* by slot: the payload position after its record */
    uint8_t *payload;
    uint64_t slot_count, payload_bytes, nap_bytes;
    bool record_bytes_given; /* by the caller, so the log writer may not lower it */
    bool write_back;
    _Atomic bool no_room; /* of a primary: see jdr_ring_note_no_room */
    enum jdr_side side;
    int fd;                 /* of the file, or -1: anonymous memory */
    _Atomic int32_t poison; /* the writers of this process are to stop */
    const struct jdr_clock *clock;
    uint64_t map_bytes;
};

/*
 * The producer that has reserved a slot, in the reserved bytes of its record. The claim is stored before the LSN is
 * given out and stays until the slot is reserved again. So it is known, at whatever instruction the producer dies. It
 * does not go to the log.
 */
struct jdr_claim {
    uint32_t incarnation;
    uint8_t side_plus_1;
};

/*
 * These answer questions of ring.h and jetdr.h. They are inlined where the memory of the ring is known. ring.c emits
 * them for all other callers.
 */
#ifndef JDR_RING_INLINE
#define JDR_RING_INLINE extern inline __attribute__((gnu_inline))
#endif

JDR_RING_INLINE bool jdr_ring_in_file(const struct jdr_ring *ring)
{
    return ring->fd >= 0;
}

JDR_RING_INLINE bool jdr_ring_logging(const struct jdr_ring *ring)
{
    return !atomic_load(&ring->shared->off);
}

JDR_RING_INLINE uint64_t jdr_ring_record_bytes_max(const struct jdr_ring *ring)
{
    return atomic_load_explicit(&ring->shared->record_bytes_max, memory_order_relaxed);
}

static inline struct jdr_record *jdr_slot(const struct jdr_ring *ring, uint64_t lsn)
{
    return &ring->slots[lsn & (ring->slot_count - 1)];
}

static inline bool jdr_published(const struct jdr_ring *ring, uint64_t lsn)
{
    return __atomic_load_n(&jdr_slot(ring, lsn)->lsn, __ATOMIC_ACQUIRE) == lsn;
}

/* The payload position after a record that is reserved, or the last one given back. */
static inline uint64_t jdr_end(const struct jdr_ring *ring, uint64_t lsn)
{
    return atomic_load(&ring->ends[lsn & (ring->slot_count - 1)]);
}

/* Does a published record have the payload that was reserved for it? Another process may have written the record. */
static inline bool jdr_is_sound(const struct jdr_ring *ring, uint64_t lsn, const struct jdr_record *record)
{
    uint64_t reserved = jdr_end(ring, lsn) - jdr_end(ring, lsn - 1);
    return record->payload_bytes % JDR_SECTOR == 0 && reserved <= ring->payload_bytes &&
           record->payload_bytes == (record->kind == JDR_VOID ? 0 : reserved);
}

static inline uint8_t *jdr_payload_at(const struct jdr_ring *ring, uint64_t position)
{
    return ring->payload + (position & (ring->payload_bytes - 1));
}

/*
 * Is so much unwritten that the consumer should not rest? A hint: the loads have no order, and reserved records count.
 */
static inline bool jdr_much_unwritten(const struct jdr_ring *ring)
{
    uint64_t head = atomic_load_explicit(&ring->shared->lsn_reserved, memory_order_relaxed);
    uint64_t written = atomic_load_explicit(&ring->shared->lsn_written, memory_order_relaxed);
    return head - written >= ring->slot_count / 8 || jdr_end(ring, head) - jdr_end(ring, written) >= ring->nap_bytes;
}

/* Bytes from there to the payload area's end, at least one sector. */
static inline uint64_t jdr_payload_straight(const struct jdr_ring *ring, uint64_t position)
{
    return ring->payload_bytes - (position & (ring->payload_bytes - 1));
}

/* `length` payload bytes as pieces: none, one, or two around the end of the area. Returns how many. */
static inline int jdr_payload_pieces(const struct jdr_ring *ring, uint64_t position, uint64_t length,
                                     struct iovec *pieces)
{
    uint64_t straight = jdr_payload_straight(ring, position);
    int count = 0;
    if (length)
        pieces[count++] = (struct iovec){jdr_payload_at(ring, position), length < straight ? length : straight};
    if (length > straight)
        pieces[count++] = (struct iovec){ring->payload, length - straight};
    return count;
}

static inline bool jdr_queued(const struct jdr_ring *ring)
{
    struct jdr_producer *producers = ring->shared->producers;
    return atomic_load(&producers[0].queued) || atomic_load(&producers[1].queued);
}

static inline void jdr_wake_queued(struct jdr_ring *ring)
{
    if (jdr_queued(ring))
        jdr_futex_wake(&ring->shared->space_seq);
}

/* Give back room that was taken for a record. */
static inline void jdr_give_back(struct jdr_ring *ring, struct jdr_room room)
{
    atomic_fetch_sub(&ring->shared->producers[ring->side].admitted, room.taken);
    jdr_wake_queued(ring);
}

/*
 * Move a tail, lsn_released or lsn_applied. The log, or the primaries, no longer need the ring for what is before it.
 */
static inline void jdr_release(struct jdr_ring *ring, _Atomic uint64_t *tail, uint64_t lsn)
{
    atomic_store(tail, lsn);
    jdr_wake_queued(ring);
}

/* Wake the consumer if it sleeps at least as deep as `depth`. */
static inline void jdr_wake_consumer(struct jdr_ring *ring, uint32_t depth)
{
    atomic_thread_fence(memory_order_seq_cst); /* the publication before the look at the sleeper */
    if (atomic_load_explicit(&ring->shared->consumer_sleep, memory_order_relaxed) >= depth)
        jdr_futex_wake(&ring->shared->work_seq);
}

/* Publish `record` in its slot. The claim in the slot stays. */
static inline void jdr_publish(struct jdr_ring *ring, const struct jdr_record *record)
{
    struct jdr_record *slot = jdr_slot(ring, record->lsn);
    memcpy(&slot->time_ns, &record->time_ns,
           offsetof(struct jdr_record, reserved) - offsetof(struct jdr_record, time_ns));
    __atomic_store_n(&slot->lsn, record->lsn, __ATOMIC_RELEASE);
}

/* Why nothing is to be admitted, as a negative error, or 0. */
static inline int jdr_refusal(const jdr_ring *ring)
{
    int poison = atomic_load_explicit(&ring->poison, memory_order_relaxed);
    if (poison)
        return -poison;
    return ring->side == JDR_HOST && !jdr_ring_logging(ring) ? -ECANCELED : 0;
}

/* ring_memory.c, for ring_file.c */
void jdr_ring_lay_out(struct jdr_ring *ring, void *memory);
bool jdr_ring_valid_options(const struct jdr_ring_options *options);
uint64_t jdr_ring_memory_bytes(uint64_t slot_count, uint64_t payload_bytes);
void jdr_ring_begin(struct jdr_ring *ring, const struct jdr_ring_options *options);
/* ring.c: lock `reserve` or `gate`, also after its owner died: 0 or -ETIMEDOUT. */
int jdr_ring_lock(pthread_mutex_t *mutex, int64_t deadline_ns);
/* ring_file.c: is the producer of an unpublished record gone for good? */
bool jdr_ring_is_abandoned(const struct jdr_ring *ring, uint64_t lsn);
/* The consumer's: if the producer of the next record is gone, publish it as VOID. */
bool jdr_ring_void_abandoned(struct jdr_ring *ring, uint64_t lsn);

#endif
