/*
 * ring.c: the ring's order: LSNs, records, durability, and logging off and on.
 *
 * ---- THE PROBLEM ------------------------------------------------------------------------------------------------
 *
 * Guests' writes come from many threads of the host component. Each needs a place in one order across all disks, and a
 * copy that survives until the log has it. The log is written by another process, the DRVA. The DRVA may be slow,
 * stopped, upgraded or killed at any instant, and so may the host component. Neither may lose what the other has
 * acknowledged, and neither may wait for a process that is gone.
 *
 * So order and copies lie in shared memory, the ring: a file on tmpfs that outlives both processes. It has many
 * producers, which are the host's threads and, with its control records, the DRVA. It has one consumer, the DRVA's log
 * writer. In write-back the host's applier and its reads look at it, too. Embedded, the ring lies in anonymous memory,
 * and all of them are threads of one process. Everything below then holds as well, except that no side dies alone.
 *
 * A lock around a whole append would be held while the payload is copied and hashed, some 100 microseconds for 1 MiB,
 * and a producer that is killed in there would leave half a record under it. So the lock `reserve` is held only for the
 * few instructions in which an append gets its place. All the rest is done with atomic operations.
 *
 * ---- THE LAYOUT -------------------------------------------------------------------------------------------------
 *
 *    header              slots, 64 bytes each         ends, 8 bytes each           payload
 *   +-------------------+----------------------------+----------------------------+-----------------------------+
 *   | counters, 2 locks | record n in slot n mod S   | end of n in place n mod S  | back to back, round the end |
 *   +-------------------+----------------------------+----------------------------+-----------------------------+
 *
 * A slot holds a record's header as it goes to the log. ends[n] is the payload position after record n, so the payload
 * of record n lies between ends[n - 1] and ends[n]. Positions only grow. Position p lies at p mod payload bytes.
 *
 * The counters are LSNs, and each says something of all records up to it. lsn_reserved: given out. lsn_written: written
 * to the log. lsn_durable: durable there. lsn_released: the log does not need the ring's copy. It follows lsn_durable
 * in a file, and lsn_written in anonymous memory. lsn_applied: given to the primaries, in write-back. The *tail* is
 * lsn_released, or in write-back the lower one of that and lsn_applied. Slots and payloads up to the tail are used
 * again. A record after the tail is published if its slot holds its own LSN.
 *
 * ---- ONE APPEND -------------------------------------------------------------------------------------------------
 *
 *    1  admit      producers[side].admitted += room; undone if the ring is then too full        (admission.c)
 *    2  lock       `reserve`
 *    3             logging is on? otherwise no place is given out
 *    4             the slot gets time, disk and the producer's claim (in a file)
 *    5             ends[n] = ends[n - 1] + payload bytes
 *    6  reserve    lsn_reserved = n
 *    7  unlock
 *    8             producers[side].admitted -= room: from here on the record itself counts
 *    9             the payload is copied and hashed
 *   10             the slot gets the rest of the header, all but the LSN
 *   11  publish    slot.lsn = n
 *   12             the consumer is woken if it sleeps
 *
 * ---- WHICH STORE PAIRS WITH WHICH LOAD --------------------------------------------------------------------------
 *
 * Publication. Step 11 is a store with release order, and every look at slot.lsn (jdr_published) is a load with acquire
 * order. A thread that finds n there finds header, payload and ends[n] complete. ends[n - 1] was stored under `reserve`
 * before record n got its place, so it is there as well. Until step 11 the slot holds no LSN or an older one, n - S at
 * most, so an old record is never taken for record n.
 *
 * Reservation. Step 6 is a sequentially consistent store, and so are the loads of lsn_reserved that decide anything. A
 * thread that loads n finds the claim and the end of n, which were stored before. Holders of `reserve` need no order
 * but the lock's. jdr_much_unwritten loads without order, because it decides only how long the consumer naps.
 *
 * Giving back. The consumer stores lsn_released after its last look at the slots and payloads before it. The applier
 * does the same with lsn_applied. A producer overwrites them only after a producer has loaded those tails and found
 * room. That was the same producer, or another that was admitted at the same time. Each adds its own room before it
 * checks the sum of all room. So of the producers of the records up to n, the one that checked last has covered them
 * all. If that is the producer of another record, that record got its place before record n, and `reserve` passes on
 * what its producer had seen. So nothing is overwritten that is still read, with one exception. pending.c copies
 * headers while the applier goes on. It then looks whether they are still pending, and forgets those that are not.
 *
 * Sleeping. Here two threads each store one word and then load the other's. A producer publishes, then looks whether
 * the consumer sleeps. The consumer says that it sleeps, then looks for what is published. Likewise, a thread that
 * gives room back then looks for queued producers, and a producer that queues then looks for room. Release and acquire
 * would let both miss the other. The four accesses are therefore sequentially consistent, or have such a fence between
 * store and load, and at least one of the two sees the other. The number of the futex word is loaded before the look,
 * so a wake-up between the look and the sleep is not lost: the number is then another, and the kernel returns at once.
 * The consumer still sleeps for a limited time only, because a producer may die between steps 11 and 12.
 *
 * ---- HOW ROOM IS COUNTED WITHOUT A LOCK -------------------------------------------------------------------------
 *
 * Room in use is what both sides have `admitted`, plus what lies between tail and lsn_reserved. Step 6 adds a record to
 * the second term, and step 8 takes its room out of the first. room_used loads the tail, then `admitted`, then
 * lsn_reserved. If it misses the room in `admitted`, step 6 was done before, and the later load of lsn_reserved sees
 * it. So a record on its way is counted once or twice, and never not at all. A tail that moves meanwhile also makes the
 * sum too large. A sum that is too large makes a producer wait, until step 8 or the moving tail wakes it. A sum that is
 * too small would let it overwrite a record.
 *
 * Two producers may both find room for one. So each adds its room first, checks the sum again, and takes its room back
 * if the sum is too large. Fewer records than slots are ever in use, so the place of the tail's own end, from which the
 * payload in use is counted, is given to no other record. tail_of loads the tail again afterwards, in case it moved.
 *
 * ---- WHY A PRODUCER MAY DIE AT ANY INSTRUCTION ------------------------------------------------------------------
 *
 * Before step 6 no place was given out. What steps 4 and 5 wrote belongs to no record, and the next holder of `reserve`
 * writes it anew. The lock is robust: the kernel tells the next holder that the last one died. What the lock guards is
 * valid after every single store, so that holder marks the lock consistent and goes on. The gate, at which producers
 * queue for room, is such a lock as well.
 *
 * Between steps 6 and 11 the record is *abandoned*. Its claim was stored before its LSN was given out. It names the
 * side that reserved the slot, and which incarnation of that side. When the consumer comes to the record, it finds it
 * unpublished and asks: was the side taken anew since, or is no process there now? A side is a lock on the file, which
 * the kernel gives back when the process ends, so the answer needs no pid and no clock. The consumer then looks once
 * more whether the record is published, because it may have been in the producer's last moment. If it is not, it never
 * will be, and the consumer publishes it as a VOID record without payload. LSNs stay dense, and the consumer never
 * waits for a producer that is dead. The room of the payload comes back together with the record's.
 *
 * After step 11 the record is whole. A write that was never acknowledged may thus be in the log.
 *
 * Room that was admitted and not used stays `admitted`. So does the room of a producer that died between steps 6 and 8.
 * It is forgotten when the side is taken anew, or when the DRVA adopts or resets the ring and finds no host.
 *
 * A producer that was *stopped* is alive, and may go on. The consumer waits for its record, and the ring fills
 * meanwhile until a guest's stall limit ends. If it was stopped with `reserve` locked, other appends give up after
 * LOCK_LIMIT_NS. The host switches logging off in both cases.
 *
 * When the consumer dies, nothing is lost: in a file lsn_released moves only over what is durable in the log. The next
 * DRVA goes on where the log ends (jdr_ring_adopt).
 *
 * ---- LOGGING OFF AND ON -----------------------------------------------------------------------------------------
 *
 * `off` is set with `reserve` locked, and step 3 looks at it there. So the records that the ring gave a place are a
 * prefix of what was acknowledged, and none comes after it but a GAP_OPEN of the DRVA. If the lock is not to be had,
 * its holder was stopped, and `off` is set without the lock: that holder may still append the one record it is at.
 * Logging goes on again after the GAP_OPEN, without the lock, because whatever is appended then has a later LSN.
 * off_count is advanced before `off` is set, so a thread that sees `off` sees the count that belongs to it.
 *
 * ---- WHAT A RESET REQUIRES --------------------------------------------------------------------------------------
 *
 * A ring that does not meet its log begins anew (jdr_ring_reset). No thread may then be at work on slots and payloads:
 *  - Logging is off, so step 3 stops every producer but the DRVA. A producer that is let in now gives the room back at
 *    once, because jdr_ring_admit looks at `off` again when it has the room.
 *  - The host has no room `admitted`, so none of its threads is between steps 1 and 8 that would go on to reserve.
 *  - Every record up to lsn_reserved is published or abandoned, so no producer is between steps 6 and 11.
 *  - In write-back, if the host lives, nothing is pending, so neither applier nor reads look at a slot.
 * `resetting` is set while the slots are emptied. If the DRVA dies in there, the ring is not adopted any more, and the
 * next reset goes ahead without asking again.
 */
#define JDR_RING_INLINE inline __attribute__((gnu_inline)) /* here they are emitted as well */
#include "ring_shared.h"

#include <string.h>

#include "checksum.h"

#define COPY_CHUNK (128u << 10) /* copied and hashed while it is in the cache */
#define LOCK_SPINS 200
#define LOCK_LIMIT_NS 500000000ll /* after that the holder, which needs a few instructions, was stopped */

struct jdr_simulation jdr_simulation;

int64_t jdr_ring_now(const jdr_ring *ring)
{
    if (ring->clock)
        return atomic_load_explicit(&ring->clock->wall_ns, memory_order_acquire);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* ---- locks ------------------------------------------------------------------------------------------------------ */

int jdr_ring_lock(pthread_mutex_t *mutex, int64_t deadline_ns)
{
    int result = EBUSY;
    for (int i = 0; i < LOCK_SPINS && (result = pthread_mutex_trylock(mutex)) == EBUSY; i++)
        __builtin_ia32_pause();
    if (result == EBUSY)
        result = jdr_lock_until(mutex, deadline_ns);
    if (result == EOWNERDEAD) /* what the lock guards is valid after every store: see above */
        result = pthread_mutex_consistent(mutex);
    return -result;
}

/* The lock of the order, which is never held across anything slow. */
static int lock_reserve(const jdr_ring *ring)
{
    if (jdr_ring_in_file(ring))
        return jdr_ring_lock(&ring->shared->reserve, jdr_monotonic_ns() + LOCK_LIMIT_NS);
    return -pthread_mutex_lock(&ring->shared->reserve);
}

/* ---- append ----------------------------------------------------------------------------------------------------- */

/* Copy from `position` on, around the end of the payload area, and hash each piece while it is in the cache. */
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

/* Copy a payload to `position`, padded with zeros to `padded`. Returns the hash of all of it. */
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

/* The monotonic clock, which goes on while the machine is suspended, as the wall clock does. */
static int64_t ring_monotonic_ns(const jdr_ring *ring)
{
    if (ring->clock)
        return atomic_load_explicit(&ring->clock->monotonic_ns, memory_order_acquire);
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* With `reserve` held: the time now, or the last time given out if that is later. */
static int64_t advance_time(jdr_ring *ring)
{
    int64_t last = atomic_load_explicit(&ring->shared->time_ns_last, memory_order_relaxed);
    struct jdr_record_clock *clock = &ring->shared->clock;
    int64_t wall = jdr_ring_now(ring) + atomic_load_explicit(&clock->lead_ns, memory_order_relaxed);
    int64_t now = jdr_record_clock_follow(clock, wall, ring_monotonic_ns(ring), last);
    if (now <= last)
        return last;
    atomic_store_explicit(&ring->shared->time_ns_last, now, memory_order_relaxed);
    return now;
}

/* Store what must be known of a record in case its producer dies before it is published. */
static void fill_claim(jdr_ring *ring, const struct jdr_record *record)
{
    struct jdr_claim claim = {ring->shared->producers[ring->side].incarnation, (uint8_t)(ring->side + 1)};
    struct jdr_record *slot = jdr_slot(ring, record->lsn);
    slot->time_ns = record->time_ns;
    slot->disk = record->disk;
    memcpy(slot->reserved, &claim, sizeof claim);
}

/* With logging off, only the GAP_OPEN gets into the log. */
static bool may_append(const jdr_ring *ring, const struct jdr_record *record)
{
    return jdr_ring_logging(ring) || (ring->side == JDR_DRVA && record->kind == JDR_GAP_OPEN);
}

/*
 * Give out LSN, time and payload position. Returns 0, -ECANCELED with logging off, or -ETIMEDOUT if the lock is not to
 * be had.
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
        if (jdr_ring_in_file(ring))
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
        lsn = reserved; /* a request that no commit can meet would keep other records from being flushed */
    uint64_t seen = atomic_load(&ring->shared->sync_wanted);
    while (seen < lsn && !atomic_compare_exchange_weak(&ring->shared->sync_wanted, &seen, lsn))
        ;
    if (jdr_ring_lsn_durable(ring) >= lsn)
        return;
    atomic_fetch_add(&ring->shared->work_seq, 1); /* a consumer that is about to sleep sees this, and looks again */
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
    bool logging = jdr_ring_logging(ring); /* loaded before the count, which is advanced before `off` is set */
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
    int locked = lock_reserve(ring); /* if not, its holder was stopped, and appends at most the record it is at */
    if (jdr_ring_logging(ring)) {
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
    if (lock_reserve(ring)) { /* its holder was stopped, but the last record and its time are valid */
        lsn = jdr_ring_lsn_reserved(ring);
        *time_ns = jdr_slot(ring, lsn)->time_ns;
        return lsn;
    }
    *time_ns = advance_time(ring);
    lsn = jdr_ring_lsn_reserved(ring);
    pthread_mutex_unlock(&ring->shared->reserve);
    return lsn;
}

void jdr_ring_look_at_clock(jdr_ring *ring, struct jdr_ring_clock *seen)
{
    const struct jdr_record_clock *clock = &ring->shared->clock;
    bool locked = lock_reserve(ring) == 0; /* if not, its holder was stopped, and the clock stays as it was */
    if (locked)
        advance_time(ring);
    bool away = atomic_load(&clock->away_monotonic_ns) != 0;
    *seen = (struct jdr_ring_clock){
        .wall_ns = jdr_ring_now(ring),
        .monotonic_ns = ring_monotonic_ns(ring),
        .lead_ns = atomic_load(&clock->lead_ns),
        .time_ns_last = jdr_ring_time_last(ring),
        .away_ns = away ? atomic_load(&clock->away_offset_ns) - atomic_load(&clock->offset_ns) : 0,
        .away_since_ns = away ? atomic_load(&clock->away_since_ns) : 0,
        .doubted_since_ns = atomic_load(&clock->doubted_since_ns),
    };
    if (locked)
        pthread_mutex_unlock(&ring->shared->reserve);
}

void jdr_ring_settle_doubt(jdr_ring *ring, int64_t doubted_since_ns)
{
    atomic_compare_exchange_strong(&ring->shared->clock.doubted_since_ns, &doubted_since_ns, 0);
}

int jdr_ring_set_lead(jdr_ring *ring, int64_t lead_ns)
{
    int result = lock_reserve(ring);
    if (result)
        return result;
    jdr_record_clock_lead(&ring->shared->clock, lead_ns, jdr_ring_time_last(ring));
    pthread_mutex_unlock(&ring->shared->reserve);
    return 0;
}

int64_t jdr_ring_time_last(const jdr_ring *ring)
{
    return atomic_load(&ring->shared->time_ns_last);
}

uint64_t jdr_ring_payload_bytes(const jdr_ring *ring)
{
    return ring->payload_bytes;
}

bool jdr_ring_is_host(const jdr_ring *ring)
{
    return ring->side == JDR_HOST;
}

int jdr_ring_poisoned(const jdr_ring *ring)
{
    return atomic_load_explicit(&ring->poison, memory_order_relaxed);
}
