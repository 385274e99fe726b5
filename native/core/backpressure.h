/*
 * backpressure.h: how long one disk's writes wait so that the log need not fill up.
 *
 * A guest that writes more than the store takes fills the log. Once the log is full, its writes bypass the log, and the
 * replica needs a resync. So the DRVA says how much each disk may write while the log fills, and a disk that writes
 * more is delayed. A disk that writes less is not, so the storm of one disk does not slow down its neighbours.
 *
 * Waiting must be worth its price. The writes of a disk wait at most `budget_ns` of each JDR_BUDGET_PERIOD_NS, however
 * many of them wait at the same time. A third of that may be spent at once. The wait of a write for room in a full log,
 * and of a flush for a full log, are paid for likewise. A guest whose budget is spent goes on, and bypasses the log if
 * there is no other way.
 *
 * Pure: the caller passes the time, and guards the structure with a mutex.
 */
#ifndef JETDR_BACKPRESSURE_H
#define JETDR_BACKPRESSURE_H

#include "jetdr.h"

#define JDR_BUDGET_PERIOD_NS 10000000000ll

struct jdr_backpressure {
    int64_t next_ns;     /* when the next write has its turn */
    int64_t charged_ns;  /* the disk's waiting up to then is paid for */
    int64_t left_ns;     /* how long its writes may wait, */
    int64_t reckoned_ns; /* as it was then. 0: never yet */
};

/* A write comes. Returns for how long it is to wait. What it waits is paid for. */
int64_t jdr_backpressure_delay(struct jdr_backpressure *disk, const struct jdr_pressure *pressure, uint64_t weight,
                               int64_t now_ns);
/* A call has waited for the log. Overlapping waits are paid for once. */
void jdr_backpressure_charge(struct jdr_backpressure *disk, const struct jdr_pressure *pressure, int64_t from_ns,
                             int64_t to_ns);
/* How long the disk's calls may wait from now on. */
int64_t jdr_backpressure_left(struct jdr_backpressure *disk, const struct jdr_pressure *pressure, int64_t now_ns);

#endif
