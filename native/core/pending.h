/*
 * pending.h: write-back: which records of the ring the primaries do not have yet, and how far they are.
 *
 * Invariants: records are given to the primaries in LSN order, so what is pending lies between lsn_applied and
 * lsn_reserved, and the ring keeps it. A record that changes no disk is passed by. Background data is such a record,
 * because the primary has it already. lsn_in_primaries follows lsn_applied once all primaries have been flushed. After
 * a primary has failed it stays for good, because the log must keep what that primary lacks.
 */
#ifndef JETDR_PENDING_H
#define JETDR_PENDING_H

#include "jetdr.h"

/* ---- for the filter, with the range held: what is pending there stays so ---------------------------------------- */

bool jdr_pending_any(const jdr_ring *ring);
bool jdr_pending_overlaps(const jdr_ring *ring, uint32_t disk, uint64_t offset, uint64_t length);
/* Lay what is pending over `target`, which holds what the primary has. */
void jdr_pending_overlay(const jdr_ring *ring, uint32_t disk, uint64_t offset, void *target, uint64_t length);

/* ---- for the applier -------------------------------------------------------------------------------------------- */

/* A pending record that changes a disk. Its payload is in the ring until the record has been applied. */
struct jdr_pending {
    struct jdr_record record;
    struct iovec pieces[2];
    int count;
};

/*
 * Find the next record that changes a disk, after *walked and up to `last`. *walked begins at lsn_applied. Other
 * records are passed by. False if there is none, or its producer has not published it yet.
 */
bool jdr_pending_next(jdr_ring *ring, uint64_t *walked, uint64_t last, struct jdr_pending *next);
/* The record was given to its primary, or no primary takes it. */
void jdr_pending_applied(jdr_ring *ring, uint64_t lsn);
uint64_t jdr_pending_lsn_applied(const jdr_ring *ring);

/* A flush of all primaries. What was applied before it began is durable when it has ended. */
struct jdr_pending_flush {
    uint64_t lsn_before, lsn_applied;
};

bool jdr_pending_flush_due(const jdr_ring *ring);
struct jdr_pending_flush jdr_pending_flush_begin(const jdr_ring *ring);
void jdr_pending_flush_end(jdr_ring *ring, struct jdr_pending_flush flush);

/* True if the primary failed an acknowledged write. No host, now or later, may serve the disk from it. */
bool jdr_pending_has_failed(const jdr_ring *ring, uint32_t disk);

#endif
