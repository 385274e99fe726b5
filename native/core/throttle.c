/*
 * throttle.c: the waits of one disk's calls for replication, and what they may cost its guest.
 *
 * Invariants: a write that is delayed holds neither room nor a range, so it keeps nobody else waiting. A call waits no
 * longer than its stall limit, the delay included. Without a DRVA that lives nothing is delayed, and nothing is paid
 * for.
 */
#include "filter.h"
#include "pace.h"
#include "ring.h"

/* With the mutex held. */
static void count_delay(struct jdr_filter_stats *stats, uint64_t delayed_ns)
{
    stats->throttled++;
    stats->throttled_ns += delayed_ns;
    if (delayed_ns > stats->throttled_ns_max)
        stats->throttled_ns_max = delayed_ns;
}

static int64_t take_turn(jdr_filter *filter, struct jdr_pressure *pressure, uint64_t weight, int64_t now_ns)
{
    if (pressure->delay_max_ns > filter->stall_limit_ns)
        pressure->delay_max_ns = filter->stall_limit_ns;
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    int64_t delay_ns = jdr_backpressure_delay(&filter->backpressure, pressure, weight, now_ns);
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
    return delay_ns;
}

int64_t jdr_throttle(jdr_filter *filter, uint64_t payload_bytes)
{
    struct jdr_pressure pressure;
    if (!filter->ring || !jdr_ring_delays(filter->ring) || !jdr_ring_logging(filter->ring) ||
        !jdr_ring_pressure(filter->ring, &pressure))
        return 0;
    int64_t begun = jdr_monotonic_ns();
    int64_t delay_ns = take_turn(filter, &pressure, jdr_pace_weight(payload_bytes), begun);
    if (!delay_ns)
        return 0;
    jdr_ring_sleep(filter->ring, begun + delay_ns);
    int64_t waited_ns = jdr_monotonic_ns() - begun;
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    count_delay(&filter->stats, (uint64_t)waited_ns);
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
    return waited_ns;
}

int64_t jdr_patience(jdr_filter *filter, int64_t waited_ns)
{
    int64_t limit_ns = filter->stall_limit_ns - waited_ns;
    struct jdr_pressure pressure;
    if (!jdr_ring_log_full(filter->ring) || !jdr_ring_pressure(filter->ring, &pressure))
        return limit_ns;
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    int64_t left_ns = jdr_backpressure_left(&filter->backpressure, &pressure, jdr_monotonic_ns());
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
    return left_ns < limit_ns ? left_ns : limit_ns;
}

void jdr_throttle_waited(jdr_filter *filter, int64_t waited_ns)
{
    struct jdr_pressure pressure;
    if (!jdr_ring_log_full(filter->ring) || !jdr_ring_pressure(filter->ring, &pressure))
        return;
    int64_t now_ns = jdr_monotonic_ns();
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    jdr_backpressure_charge(&filter->backpressure, &pressure, now_ns - waited_ns, now_ns);
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
}
