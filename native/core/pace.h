/*
 * pace.h: write-back: how far one disk's primary may lag.
 *
 * When logging goes off, guests go on only after every primary has all that is pending. A slow primary with a ring full
 * of data would make all of them wait for minutes. So a disk may log no more than its primary takes in JDR_PACE_NS, and
 * a disk that has more waits until its primary has caught up.
 *
 * How much that is, is measured in periods, each of which ends with a flush of the primary. A period that took too long
 * lowers what is allowed to what would have fitted. A quick one in which much of it was used doubles it.
 */
#ifndef JETDR_PACE_H
#define JETDR_PACE_H

#include <stdbool.h>

#include "threads.h"

#define JDR_PACE_NS 1000000000ll

struct jdr_pace {
    _Atomic uint64_t lacking;  /* what was logged and the primary does not have durably, by weight */
    _Atomic uint64_t allowed;  /* the most that it may be */
    _Atomic uint32_t moved;    /* advances when it becomes less */
    _Atomic uint64_t stuck_at; /* where the applier was when waiting for others was given up: no call waits again */
    uint64_t taken;            /* what the primary took in this period, and for how long it worked: the applier's */
    int64_t busy_ns;
};

void jdr_pace_init(struct jdr_pace *pace);
/* What a record counts for: its payload, and something for itself. */
uint64_t jdr_pace_weight(uint64_t payload_bytes);
/* A record is about to be logged, or was not logged after all. */
void jdr_pace_add(struct jdr_pace *pace, uint64_t weight);
void jdr_pace_subtract(struct jdr_pace *pace, uint64_t weight);
/* Would so much more be too much? A disk whose primary lacks nothing may always log a record. */
bool jdr_pace_exceeds(const struct jdr_pace *pace, uint64_t weight);

/* ---- for the applier -------------------------------------------------------------------------------------------- */

/* The primary took a record, in `took_ns`. */
void jdr_pace_taken(struct jdr_pace *pace, uint64_t weight, int64_t took_ns);
/* The primary was flushed, in `took_ns`: the period is over. */
void jdr_pace_flushed(struct jdr_pace *pace, int64_t took_ns);
/* The primary has everything. */
void jdr_pace_settled(struct jdr_pace *pace);

#endif
