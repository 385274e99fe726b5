/*
 * admission.c: room in the ring: which producers are let in, and which wait.
 *
 * Invariants: the sum of all room is never less than what is in use (ring.c has the proof), so a producer that is let
 * in overwrites nothing. A producer that has to wait queues at the gate, and no other is let in past the queue, so
 * short records do not starve a long one. A wait for the log has a limit. A wait for a primary that is slower than the
 * log has none.
 */
#include "ring_shared.h"

/* The last record whose room has been given back, and the payload position after it. */
static uint64_t tail_of(const jdr_ring *ring, uint64_t *position)
{
    for (;;) {
        uint64_t lsn = atomic_load(&ring->shared->lsn_released);
        uint64_t applied = ring->write_back ? atomic_load(&ring->shared->lsn_applied) : lsn;
        *position = jdr_end(ring, applied < lsn ? applied : lsn);
        /* If both are unchanged, no producer can have overwritten that end meanwhile. */
        if (lsn == atomic_load(&ring->shared->lsn_released) &&
            (!ring->write_back || applied == atomic_load(&ring->shared->lsn_applied)))
            return applied < lsn ? applied : lsn;
    }
}

/* The room in use. The order of the loads makes a record on its way count twice rather than not at all. */
static uint64_t room_used(const jdr_ring *ring)
{
    uint64_t tail_position, tail = tail_of(ring, &tail_position);
    struct jdr_producer *producers = ring->shared->producers;
    uint64_t admitted = atomic_load(&producers[0].admitted) + atomic_load(&producers[1].admitted);
    uint64_t head = atomic_load(&ring->shared->lsn_reserved);
    return admitted + (head - tail) * JDR_ROOM_RECORD + (jdr_end(ring, head) - tail_position) / JDR_SECTOR;
}

static bool fits(const jdr_ring *ring, struct jdr_room more)
{
    uint64_t then = room_used(ring) + more.taken;
    return JDR_ROOM_RECORDS(then) < ring->slot_count && JDR_ROOM_SECTORS(then) <= ring->payload_bytes / JDR_SECTOR;
}

static bool take_room(jdr_ring *ring, struct jdr_room room)
{
    if (!fits(ring, room))
        return false;
    atomic_fetch_add(&ring->shared->producers[ring->side].admitted, room.taken);
    if (fits(ring, (struct jdr_room){0}))
        return true;
    jdr_give_back(ring, room); /* another producer was quicker */
    return false;
}

/* Is the missing room held for a primary that is slower than the log? Its host waits for it. */
static bool primary_lags(const jdr_ring *ring)
{
    return ring->write_back && ring->side == JDR_HOST && !atomic_load(&ring->no_room) &&
           atomic_load(&ring->shared->lsn_applied) < atomic_load(&ring->shared->lsn_released);
}

/* Wait for room, at the head of the queue. */
static int wait_for_room(jdr_ring *ring, struct jdr_room room, int64_t limit_ns, int64_t deadline)
{
    for (;;) {
        uint32_t seen = atomic_load(&ring->shared->space_seq);
        int result = jdr_refusal(ring);
        if (limit_ns > 0 && primary_lags(ring)) /* asked first: the primary may catch up in between */
            deadline = jdr_monotonic_ns() + limit_ns;
        if (result || take_room(ring, room))
            return result;
        int64_t left = deadline - jdr_monotonic_ns();
        if (left <= 0)
            return -ETIMEDOUT;
        jdr_wake_consumer(ring, JDR_NAP);
        jdr_futex_wait(&ring->shared->space_seq, seen, left);
    }
}

/* Wait in turn: the thread that holds the gate waits for room, the others wait for the gate. */
static int admit_queued(jdr_ring *ring, struct jdr_room room, int64_t limit_ns)
{
    struct jdr_ring_shared *shared = ring->shared;
    int64_t deadline = jdr_monotonic_ns() + limit_ns;
    atomic_fetch_add(&shared->producers[ring->side].queued, 1);
    bool lags = limit_ns > 0 && primary_lags(ring);
    int result;
    while ((result = jdr_ring_lock(&shared->gate, deadline)) == -ETIMEDOUT && lags) {
        lags = primary_lags(ring); /* it caught up: wait once more, for the log */
        deadline = jdr_monotonic_ns() + limit_ns;
    }
    if (result == 0) {
        result = wait_for_room(ring, room, limit_ns, deadline);
        pthread_mutex_unlock(&shared->gate);
    }
    atomic_fetch_sub(&shared->producers[ring->side].queued, 1);
    return result;
}

int jdr_ring_admit(jdr_ring *ring, uint64_t payload_bytes, int64_t limit_ns, struct jdr_room *room)
{
    if (payload_bytes % JDR_SECTOR)
        return -EINVAL;
    if (payload_bytes > jdr_ring_record_bytes_max(ring))
        return -EMSGSIZE;
    int result = jdr_refusal(ring);
    if (result)
        return result;
    struct jdr_room taken = jdr_room_for(payload_bytes);
    if (jdr_queued(ring) || !take_room(ring, taken))
        result = admit_queued(ring, taken, limit_ns);
    if (result)
        return result;
    if ((result = jdr_refusal(ring)))
        jdr_give_back(ring, taken); /* logging went off meanwhile, and a reset of the ring waits for this room */
    else
        *room = taken;
    return result;
}

void jdr_ring_note_no_room(jdr_ring *ring, bool no_room)
{
    atomic_store(&ring->no_room, no_room);
}

bool jdr_ring_no_room(const jdr_ring *ring)
{
    return atomic_load(&ring->no_room);
}

void jdr_ring_cancel(jdr_ring *ring, struct jdr_room room)
{
    jdr_give_back(ring, room);
}

uint64_t jdr_ring_used_bytes(const jdr_ring *ring)
{
    return JDR_ROOM_SECTORS(room_used(ring)) * JDR_SECTOR;
}

struct jdr_room jdr_ring_share(const jdr_ring *ring)
{
    return jdr_room_of(ring->slot_count / 2, ring->payload_bytes / 2);
}
