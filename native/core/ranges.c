/* ranges.c: see ranges.h. */
#include <errno.h>

#include "ranges.h"
#include "room.h"

/* ---- calls inside ----------------------------------------------------------------------------------------------- */

void jdr_ranges_init(struct jdr_ranges *ranges)
{
    pthread_mutexattr_t adaptive; /* held for a few instructions: spinning is cheaper than sleeping */
    pthread_mutexattr_init(&adaptive);
    pthread_mutexattr_settype(&adaptive, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&ranges->mutex, &adaptive);
    pthread_mutexattr_destroy(&adaptive);
    pthread_cond_init(&ranges->released, NULL);
}

void jdr_ranges_destroy(struct jdr_ranges *ranges)
{
    pthread_mutex_destroy(&ranges->mutex);
    pthread_cond_destroy(&ranges->released);
}

void jdr_ranges_close(struct jdr_ranges *ranges)
{
    pthread_mutex_lock(&ranges->mutex);
    atomic_fetch_or(&ranges->inside, JDR_RANGES_CLOSED);
    ranges->waiting++;
    while (atomic_load(&ranges->inside) != JDR_RANGES_CLOSED)
        jdr_wait_until(&ranges->released, &ranges->mutex, INT64_MAX);
    ranges->waiting--;
    pthread_mutex_unlock(&ranges->mutex);
}

void jdr_ranges_unlock(struct jdr_ranges *ranges)
{
    if (ranges->waiting)
        pthread_cond_broadcast(&ranges->released);
    pthread_mutex_unlock(&ranges->mutex);
}

void jdr_ranges_leave(struct jdr_ranges *ranges)
{
    atomic_fetch_sub(&ranges->inside, 1);
    jdr_ranges_unlock(ranges);
}

void jdr_ranges_turn_back(struct jdr_ranges *ranges)
{
    pthread_mutex_lock(&ranges->mutex);
    jdr_ranges_leave(ranges);
}

/* ---- ranges in flight ------------------------------------------------------------------------------------------- */

static bool overlaps_older(const struct jdr_range *range)
{
    for (const struct jdr_range *other = range->older; other; other = other->older)
        if (other->begin < range->end && range->begin < other->end)
            return true;
    return false;
}

/* With the mutex held. */
static bool has_share(const struct jdr_ranges *ranges, struct jdr_room room, struct jdr_room share)
{
    return jdr_room_is_none(room) || jdr_room_within(jdr_room_sum(ranges->in_flight, room), share);
}

/* With the mutex held. Waiting unlocks it meanwhile. */
static void wait_for_older(struct jdr_ranges *ranges, const struct jdr_range *range)
{
    ranges->overlaps_waited++;
    ranges->waiting++;
    while (overlaps_older(range))
        jdr_wait_until(&ranges->released, &ranges->mutex, INT64_MAX);
    ranges->waiting--;
}

bool jdr_ranges_hold(struct jdr_ranges *ranges, struct jdr_range *range, struct jdr_room share)
{
    pthread_mutex_lock(&ranges->mutex);
    range->held = has_share(ranges, range->room, share);
    if (range->held) {
        ranges->in_flight = jdr_room_sum(ranges->in_flight, range->room);
        range->arrival = ++ranges->arrivals;
        range->older = ranges->newest;
        range->newer = NULL;
        if (ranges->newest)
            ranges->newest->newer = range;
        ranges->newest = range;
        if (overlaps_older(range))
            wait_for_older(ranges, range);
    }
    pthread_mutex_unlock(&ranges->mutex);
    return range->held;
}

bool jdr_ranges_release(struct jdr_ranges *ranges, struct jdr_range *range)
{
    pthread_mutex_lock(&ranges->mutex);
    if (!range->held)
        return false;
    ranges->in_flight = jdr_room_less(ranges->in_flight, range->room);
    if (range->older)
        range->older->newer = range->newer;
    *(range->newer ? &range->newer->older : &ranges->newest) = range->older;
    range->held = false;
    return true;
}

int jdr_ranges_wait_share(struct jdr_ranges *ranges, struct jdr_room room, struct jdr_room share, int64_t deadline_ns)
{
    int result = 0;
    pthread_mutex_lock(&ranges->mutex);
    ranges->waiting++;
    while (!result && !has_share(ranges, room, share))
        if (jdr_wait_until(&ranges->released, &ranges->mutex, deadline_ns))
            result = -EBUSY;
    ranges->waiting--;
    pthread_mutex_unlock(&ranges->mutex);
    return result;
}

/* With the mutex held: is a range in flight that was among the first `arrivals`? */
static bool has_arrived_by(const struct jdr_ranges *ranges, uint64_t arrivals)
{
    for (const struct jdr_range *range = ranges->newest; range; range = range->older)
        if (range->arrival <= arrivals)
            return true;
    return false;
}

int jdr_ranges_wait_released(struct jdr_ranges *ranges, int64_t deadline_ns)
{
    int result = 0;
    pthread_mutex_lock(&ranges->mutex);
    uint64_t arrivals = ranges->arrivals;
    ranges->waiting++;
    while (!result && has_arrived_by(ranges, arrivals))
        if (jdr_wait_until(&ranges->released, &ranges->mutex, deadline_ns))
            result = -ETIMEDOUT;
    ranges->waiting--;
    pthread_mutex_unlock(&ranges->mutex);
    return result;
}
