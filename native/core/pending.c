/* pending.c: see pending.h. */
#include <string.h>

#include "pending.h"
#include "ring_shared.h"

#define SEVERAL UINT64_MAX

uint64_t jdr_pending_lsn_applied(const jdr_ring *ring)
{
    return atomic_load(&ring->shared->lsn_applied);
}

bool jdr_pending_any(const jdr_ring *ring)
{
    return jdr_pending_lsn_applied(ring) < jdr_ring_lsn_reserved(ring);
}

/* A background record does not. It says what the disk holds, and is passed by without its range held. */
static bool changes_a_disk(const jdr_ring *ring, uint64_t lsn, const struct jdr_record *record)
{
    return !(record->flags & JDR_BACKGROUND) && jdr_is_sound(ring, lsn, record) &&
           record->length <= UINT64_MAX - record->offset &&
           (record->kind == JDR_ZERO || (record->kind == JDR_WRITE && record->payload_bytes == record->length));
}

/* ---- looking ---------------------------------------------------------------------------------------------------- */

/*
 * Is record `lsn` pending, and does it change the disk in that range, which is held? A record that does stays pending.
 * Another may be applied meanwhile, and its slot reserved again. So copy the record, and believe the copy only if the
 * record is still pending.
 */
static bool overlaps(const jdr_ring *ring, uint64_t lsn, uint32_t disk, uint64_t offset, uint64_t length,
                     struct jdr_record *record)
{
    if (!jdr_published(ring, lsn)) /* then no caller was told that it is there */
        return false;
    *record = *jdr_slot(ring, lsn);
    bool changes = record->disk == disk && changes_a_disk(ring, lsn, record);
    atomic_thread_fence(memory_order_acquire);
    return changes && jdr_published(ring, lsn) && jdr_pending_lsn_applied(ring) < lsn &&
           record->offset < offset + length && offset < record->offset + record->length;
}

bool jdr_pending_overlaps(const jdr_ring *ring, uint32_t disk, uint64_t offset, uint64_t length)
{
    uint64_t applied = jdr_pending_lsn_applied(ring), last = jdr_ring_lsn_reserved(ring);
    struct jdr_record record;
    for (uint64_t lsn = applied + 1; lsn <= last; lsn++)
        if (overlaps(ring, lsn, disk, offset, length, &record))
            return true;
    return false;
}

/* Lay payload bytes [from, from + length) of a record over target. */
static void lay(const jdr_ring *ring, const struct jdr_record *record, uint64_t from, uint8_t *target, uint64_t length)
{
    if (record->kind == JDR_ZERO) {
        memset(target, 0, length);
        return;
    }
    struct iovec pieces[2];
    uint64_t position = jdr_end(ring, record->lsn) - record->payload_bytes;
    int count = jdr_payload_pieces(ring, position + from, length, pieces);
    for (int i = 0; i < count; target += pieces[i++].iov_len)
        memcpy(target, pieces[i].iov_base, pieces[i].iov_len);
}

void jdr_pending_overlay(const jdr_ring *ring, uint32_t disk, uint64_t offset, void *target, uint64_t length)
{
    uint64_t applied = jdr_pending_lsn_applied(ring), last = jdr_ring_lsn_reserved(ring);
    struct jdr_record record;
    for (uint64_t lsn = applied + 1; lsn <= last; lsn++) {
        if (!overlaps(ring, lsn, disk, offset, length, &record))
            continue;
        uint64_t end = record.offset + record.length;
        uint64_t low = record.offset > offset ? record.offset : offset,
                 high = end < offset + length ? end : offset + length;
        lay(ring, &record, low - record.offset, (uint8_t *)target + (low - offset), high - low);
    }
}

/* ---- applying --------------------------------------------------------------------------------------------------- */

/* Is it certain that an unpublished record will change no disk? */
static bool is_nothing(const jdr_ring *ring, uint64_t lsn)
{
    struct jdr_claim claim;
    memcpy(&claim, jdr_slot(ring, lsn)->reserved, sizeof claim);
    return !jdr_published(ring, lsn) && (claim.side_plus_1 == JDR_DRVA + 1 || jdr_ring_is_abandoned(ring, lsn));
}

void jdr_pending_applied(jdr_ring *ring, uint64_t lsn)
{
    jdr_release(ring, &ring->shared->lsn_applied, lsn);
}

/* Take a published, pending record. False if it changes no disk. */
static bool take(const jdr_ring *ring, uint64_t lsn, struct jdr_pending *pending)
{
    struct jdr_record *record = &pending->record;
    *record = *jdr_slot(ring, lsn);
    if (!changes_a_disk(ring, lsn, record))
        return false;
    uint64_t position = jdr_end(ring, lsn) - record->payload_bytes;
    pending->count = jdr_payload_pieces(ring, position, record->payload_bytes, pending->pieces);
    return true;
}

bool jdr_pending_next(jdr_ring *ring, uint64_t *walked, uint64_t last, struct jdr_pending *next)
{
    while (*walked < last && (jdr_published(ring, *walked + 1) || is_nothing(ring, *walked + 1))) {
        uint64_t lsn = ++*walked;
        if (jdr_published(ring, lsn) && take(ring, lsn, next))
            return true;
        jdr_pending_applied(ring, lsn);
    }
    return false;
}

/* ---- durable in the primaries ----------------------------------------------------------------------------------- */

uint64_t jdr_ring_lsn_in_primaries(const jdr_ring *ring)
{
    return atomic_load(&ring->shared->lsn_in_primaries);
}

bool jdr_pending_flush_due(const jdr_ring *ring)
{
    const struct jdr_ring_shared *shared = ring->shared;
    return atomic_load(&shared->lsn_applied) > atomic_load(&shared->lsn_in_primaries) &&
           !atomic_load(&shared->primary_failed);
}

struct jdr_pending_flush jdr_pending_flush_begin(const jdr_ring *ring)
{
    uint64_t before = atomic_load(&ring->shared->lsn_in_primaries);
    return (struct jdr_pending_flush){before, jdr_pending_lsn_applied(ring)};
}

void jdr_pending_flush_end(jdr_ring *ring, struct jdr_pending_flush flush)
{
    struct jdr_ring_shared *shared = ring->shared;
    if (!atomic_load(&shared->primary_failed)) /* unless the ring began anew meanwhile */
        atomic_compare_exchange_strong(&shared->lsn_in_primaries, &flush.lsn_before, flush.lsn_applied);
}

bool jdr_ring_primaries_flushed(jdr_ring *ring)
{
    struct jdr_ring_shared *shared = ring->shared;
    if (ring->side != JDR_DRVA || !ring->write_back || jdr_ring_side_alive(ring, JDR_HOST) ||
        atomic_load(&shared->primary_failed))
        return false;
    atomic_store(&shared->lsn_in_primaries, atomic_load(&shared->lsn_applied));
    return true;
}

bool jdr_ring_primaries_lag(const jdr_ring *ring)
{
    const struct jdr_ring_shared *shared = ring->shared;
    uint64_t primary = atomic_load(&shared->lsn_in_primaries), applied = atomic_load(&shared->lsn_applied);
    uint64_t head = atomic_load(&shared->lsn_reserved);
    return ring->write_back && (applied < head || (primary < head && !atomic_load(&shared->primary_failed)));
}

/* ---- a primary that failed -------------------------------------------------------------------------------------- */

void jdr_ring_note_primary_failure(jdr_ring *ring, uint32_t disk)
{
    uint64_t none = 0, mine = disk + 1ull;
    _Atomic uint64_t *failed = &ring->shared->primary_failed;
    if (!atomic_compare_exchange_strong(failed, &none, mine) && none != mine)
        atomic_store(failed, SEVERAL);
}

bool jdr_pending_has_failed(const jdr_ring *ring, uint32_t disk)
{
    uint64_t failed = atomic_load(&ring->shared->primary_failed);
    return failed == disk + 1ull || failed == SEVERAL;
}
