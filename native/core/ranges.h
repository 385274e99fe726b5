/*
 * ranges.h: the calls inside one disk's filter, and the ranges of the disk that they hold.
 *
 * Invariants: ranges that overlap are held one after the other, in order of arrival. A disk holds no more room in the
 * ring than its share. Closing a disk waits for the calls inside, and none is let in afterwards. The mutex guards all
 * of this and the statistics of the disk's owner. It is held for a few instructions, and shares a cache line with all
 * that it guards here.
 */
#ifndef JETDR_RANGES_H
#define JETDR_RANGES_H

#include "jetdr.h"
#include "threads.h"

/* A range in flight, on the stack of its holder. */
struct jdr_range {
    uint64_t begin, end;
    struct jdr_room room;            /* taken for it in the ring, or none if it is not to be logged */
    struct jdr_range *older, *newer; /* in order of arrival */
    uint64_t arrival;                /* its number in that order */
    int64_t waited_ns;               /* for backpressure and room */
    bool held;
};

static inline bool jdr_range_is_logged(const struct jdr_range *range)
{
    return range->room.taken != 0;
}

struct jdr_ranges {
    JDR_LINE pthread_mutex_t mutex; /* guards all below */
    _Atomic uint32_t inside;        /* calls, and JDR_RANGES_CLOSED. A call leaves with the mutex held */
    uint32_t waiting;               /* threads that wait on `released` */
    struct jdr_range *newest;
    uint64_t arrivals;         /* how many ranges there have been */
    struct jdr_room in_flight; /* of all ranges */
    pthread_cond_t released;
    uint64_t overlaps_waited;
};

#define JDR_RANGES_CLOSED (1u << 31)

void jdr_ranges_init(struct jdr_ranges *ranges);
void jdr_ranges_destroy(struct jdr_ranges *ranges);
void jdr_ranges_turn_back(struct jdr_ranges *ranges); /* used by jdr_ranges_enter */
/* Refuse calls from now on, and wait for those inside. Idempotent. */
void jdr_ranges_close(struct jdr_ranges *ranges);

/* Begin a call. False if the disk is closed: the call has then not begun. */
static inline bool jdr_ranges_enter(struct jdr_ranges *ranges)
{
    if (!(atomic_fetch_add(&ranges->inside, 1) & JDR_RANGES_CLOSED))
        return true;
    jdr_ranges_turn_back(ranges);
    return false;
}

/* End a call. The mutex is held, and is unlocked. */
void jdr_ranges_leave(struct jdr_ranges *ranges);
/* Unlock the mutex, and wake the threads that wait for what was done under it. */
void jdr_ranges_unlock(struct jdr_ranges *ranges);

/*
 * Hold a range, in order of arrival among those that overlap. False if the disk would then have more room than `share`.
 * The range is then not held. A range without room is always held.
 */
bool jdr_ranges_hold(struct jdr_ranges *ranges, struct jdr_range *range, struct jdr_room share);
/*
 * Give a range back, and say whether it was held. Returns with the mutex held, so that the caller can count. The caller
 * then calls jdr_ranges_leave or jdr_ranges_unlock.
 */
bool jdr_ranges_release(struct jdr_ranges *ranges, struct jdr_range *range);
/* Wait until the share has so much room left. Returns 0, or -EBUSY at the deadline. */
int jdr_ranges_wait_share(struct jdr_ranges *ranges, struct jdr_room room, struct jdr_room share, int64_t deadline_ns);
/* Wait until no range is held any more that is held now. Returns 0, or -ETIMEDOUT at the deadline. */
int jdr_ranges_wait_released(struct jdr_ranges *ranges, int64_t deadline_ns);

#endif
