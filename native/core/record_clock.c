/*
 * record_clock.c: the time that a record gets. record_clock.h says why it is not always the wall clock's.
 */
#include "record_clock.h"

#include <stdbool.h>

#define DRIFT_SHIFT 10 /* the two clocks may drift apart by 1 in 1024, about twice what the kernel slews */

static int64_t load(const _Atomic int64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void store(_Atomic int64_t *word, int64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* May the wall clock have moved by `step_ns` against the monotonic clock in `elapsed_ns`? */
static bool is_supported(int64_t step_ns, int64_t elapsed_ns)
{
    int64_t most = JDR_CLOCK_STEP_NS + (elapsed_ns > 0 ? elapsed_ns >> DRIFT_SHIFT : 0);
    return -most <= step_ns && step_ns <= most;
}

static void follow(struct jdr_record_clock *clock, int64_t offset_ns, int64_t monotonic_ns)
{
    store(&clock->followed_ns, monotonic_ns);
    store(&clock->offset_ns, offset_ns);
    if (load(&clock->away_monotonic_ns))
        store(&clock->away_monotonic_ns, 0);
}

static void begin(struct jdr_record_clock *clock, int64_t offset_ns, int64_t monotonic_ns)
{
    store(&clock->begun_ns, offset_ns + monotonic_ns);
    store(&clock->offset_ns, offset_ns);
    store(&clock->followed_ns, monotonic_ns); /* makes the rest valid */
}

static void leave(struct jdr_record_clock *clock, int64_t offset_ns, int64_t monotonic_ns, int64_t last_ns)
{
    store(&clock->away_monotonic_ns, 0);
    store(&clock->away_offset_ns, offset_ns);
    store(&clock->away_since_ns, last_ns);
    store(&clock->away_monotonic_ns, monotonic_ns);
}

/*
 * Which instants to doubt after a step back to `wall_ns`, as the first one. A clock that is now earlier than the log
 * knew before this ring began is wrong itself, and so the past is right. A clock that is between that and the ring's
 * first record says that all of this ring's times were ahead. Else those are doubted that it goes through again.
 */
static int64_t doubted_since(const struct jdr_record_clock *clock, int64_t wall_ns, int64_t last_ns)
{
    int64_t begun_after = load(&clock->begun_after_ns), begun = load(&clock->begun_ns);
    if (wall_ns >= begun)
        return wall_ns;
    return begun_after && wall_ns >= begun_after ? begun_after + 1 : last_ns;
}

static void doubt(struct jdr_record_clock *clock, int64_t since_ns)
{
    int64_t known = load(&clock->doubted_since_ns);
    if (!known || since_ns < known)
        store(&clock->doubted_since_ns, since_ns > 0 ? since_ns : 1);
}

/* The wall clock has stayed where it went: it is followed, and the step is a doubt. */
static void confirm(struct jdr_record_clock *clock, int64_t offset_ns, int64_t monotonic_ns, int64_t last_ns)
{
    int64_t wall_ns = offset_ns + monotonic_ns;
    if (offset_ns > load(&clock->offset_ns)) {
        doubt(clock, load(&clock->away_since_ns));
        store(&clock->begun_after_ns, load(&clock->away_since_ns));
        store(&clock->begun_ns, wall_ns);
    } else {
        doubt(clock, doubted_since(clock, wall_ns, last_ns));
    }
    follow(clock, offset_ns, monotonic_ns);
}

/* The wall clock is not where the monotonic clock supports it. */
static int64_t follow_away(struct jdr_record_clock *clock, int64_t offset_ns, int64_t monotonic_ns, int64_t last_ns)
{
    int64_t away_ns = load(&clock->away_monotonic_ns);
    if (!away_ns || !is_supported(offset_ns - load(&clock->away_offset_ns), monotonic_ns - away_ns))
        leave(clock, offset_ns, monotonic_ns, last_ns);
    else if (monotonic_ns - away_ns >= JDR_CLOCK_CONFIRM_NS)
        confirm(clock, offset_ns, monotonic_ns, last_ns);
    return monotonic_ns + load(&clock->offset_ns);
}

int64_t jdr_record_clock_follow(struct jdr_record_clock *clock, int64_t wall_ns, int64_t monotonic_ns, int64_t last_ns)
{
    int64_t offset_ns = wall_ns - monotonic_ns, followed_ns = load(&clock->followed_ns);
    if (!followed_ns)
        begin(clock, offset_ns, monotonic_ns);
    else if (is_supported(offset_ns - load(&clock->offset_ns), monotonic_ns - followed_ns))
        follow(clock, offset_ns, monotonic_ns);
    else
        return follow_away(clock, offset_ns, monotonic_ns, last_ns);
    return wall_ns;
}

void jdr_record_clock_lead(struct jdr_record_clock *clock, int64_t lead_ns, int64_t last_ns)
{
    int64_t more_ns = lead_ns - load(&clock->lead_ns);
    store(&clock->lead_ns, lead_ns);
    if (load(&clock->doubted_since_ns))
        store(&clock->doubted_since_ns, load(&clock->doubted_since_ns) + more_ns);
    if (!load(&clock->followed_ns))
        return;
    store(&clock->away_monotonic_ns, 0);
    store(&clock->begun_after_ns, last_ns);
    store(&clock->begun_ns, last_ns);
    store(&clock->offset_ns, load(&clock->offset_ns) + more_ns);
}
