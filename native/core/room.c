/*
 * room.c: room in the ring for a record of one disk, and then the disk's range.
 *
 * Invariants: room is taken before the range, so a thread that holds a range never waits for the log. Between taking
 * room and publishing, one disk has at most half of the ring, so a primary that hangs does not stop the other disks.
 */
#include <errno.h>

#include "filter.h"
#include "ring.h"

/* With the mutex held. */
static void count_stall(struct jdr_filter_stats *stats, uint64_t stalled_ns)
{
    stats->stalls++;
    stats->stall_ns += stalled_ns;
    if (stalled_ns > stats->stall_ns_max)
        stats->stall_ns_max = stalled_ns;
}

/* There was no room at once. Wait until the ring has room and this disk's share has room. */
static int take_stalled(jdr_filter *filter, struct jdr_range *range, uint64_t payload_bytes, int64_t limit_ns)
{
    struct jdr_ranges *ranges = &filter->primary.ranges;
    int64_t begun = jdr_monotonic_ns(), deadline = begun + limit_ns;
    /* A guest's patience with the log is not that with its own primary. */
    int64_t share_deadline = filter->mode->hold_bypassing ? begun + filter->stall_limit_ns : deadline;
    int result;
    while ((result = jdr_ring_admit(filter->ring, payload_bytes, deadline - jdr_monotonic_ns(), &range->room)) == 0) {
        if (jdr_ranges_hold(ranges, range, filter->share))
            break;
        jdr_ring_cancel(filter->ring, range->room);
        if ((result = jdr_ranges_wait_share(ranges, range->room, filter->share, share_deadline)))
            break;
    }
    int64_t stalled_ns = jdr_monotonic_ns() - begun;
    range->waited_ns += stalled_ns;
    pthread_mutex_lock(&ranges->mutex);
    count_stall(&filter->stats, (uint64_t)stalled_ns);
    pthread_mutex_unlock(&ranges->mutex);
    return result;
}

int jdr_room_take(jdr_filter *filter, struct jdr_range *range, uint64_t payload_bytes, int64_t limit_ns)
{
    int result = jdr_ring_admit(filter->ring, payload_bytes, 0, &range->room);
    if (result == 0) {
        if (jdr_ranges_hold(&filter->primary.ranges, range, filter->share))
            return 0;
        jdr_ring_cancel(filter->ring, range->room);
    } else if (result != -ETIMEDOUT) {
        return result;
    }
    return take_stalled(filter, range, payload_bytes, limit_ns);
}

int jdr_room_or_bypass(jdr_filter *filter, struct jdr_range *range, uint64_t payload_bytes)
{
    for (;;) {
        int64_t waited_ns = range->waited_ns, patience_ns = jdr_patience(filter, waited_ns);
        int result = jdr_room_take(filter, range, payload_bytes, patience_ns);
        if (range->waited_ns > waited_ns && result != -EBUSY)
            jdr_throttle_waited(filter, range->waited_ns - waited_ns);
        if (result == 0 || result == -EMSGSIZE)
            return result;
        if (result == -ETIMEDOUT && jdr_ring_no_room(filter->ring))
            return jdr_primary_error(-ENOSPC);
        if (result == -EBUSY)
            range->waited_ns = 0;                                 /* that was not for the log */
        bool gives_up = result != -ECANCELED && result != -EBUSY; /* a primary that hangs is waited for */
        if (gives_up && jdr_ring_logging(filter->ring))
            jdr_ring_stop_logging(filter->ring,
                                  waited_ns + patience_ns < filter->stall_limit_ns ? JDR_OFF_OVERLOAD : JDR_OFF_FULL,
                                  filter->primary.disk);
        range->room = (struct jdr_room){0};
        if (!jdr_ring_logging(filter->ring) && filter->mode->hold_bypassing(filter, range))
            return 0;
    }
}
