/*
 * write_back.c: the way of writing in which the log comes first. A change completes when the ring has its record, and a
 * flush when the log has it. The applier gives the change to the primary later. Reads find what is pending.
 *
 * Invariants: while logging is on, a change goes to the ring alone. With logging off, it goes to the primary alone, and
 * only after the applier has settled, so that the primary has all that was logged and the bypassed file stands. After
 * the primary has failed to keep a write, the disk takes and gives nothing more.
 */
#include <errno.h>

#include "applier.h"
#include "filter.h"
#include "pending.h"
#include "ring.h"

/* Give the range back, and go on with the call. */
static void release(jdr_filter *filter, struct jdr_range *range)
{
    jdr_ranges_release(&filter->primary.ranges, range);
    jdr_ranges_unlock(&filter->primary.ranges);
}

/* ---- changes ---------------------------------------------------------------------------------------------------- */

static bool is_pending(const jdr_filter *filter, uint64_t offset, uint64_t length)
{
    return jdr_pending_overlaps(filter->ring, filter->primary.disk, offset, length);
}

static bool hold_bypassing(jdr_filter *filter, struct jdr_range *range)
{
    if (!jdr_applier_wait_settled(filter->applier))
        return false;
    jdr_ranges_hold(&filter->primary.ranges, range, filter->share);
    /*
     * Re-check with the range held: any later resync copy is then ordered after this write. Logging must have stayed
     * off since we settled.
     */
    bool settled = jdr_applier_is_settled(filter->applier);
    /* A change that got its LSN just as logging went off: the applier would write it over this one. */
    bool pending = settled && is_pending(filter, range->begin, range->end - range->begin);
    if (settled && !pending)
        return true;
    release(filter, range);
    if (pending)
        jdr_applier_wait_applied(filter->applier, jdr_ring_lsn_reserved(filter->ring));
    return false;
}

static int64_t change(jdr_filter *filter, const struct jdr_change *change, struct jdr_range *range)
{
    struct jdr_primary *primary = &filter->primary;
    for (;;) {
        if (primary->failed) /* the primary lacks an acknowledged write: nothing more is accepted */
            return primary->failed;
        int64_t result = jdr_primary_wait_for_room(primary, filter->stall_limit_ns);
        if (result)
            return result;
        uint64_t weight = jdr_pace_weight(jdr_payload_bytes(change));
        jdr_applier_pace(filter->applier, primary, weight, filter->stall_limit_ns);
        result = jdr_room_or_bypass(filter, range, jdr_payload_bytes(change));
        if (result)
            return result;
        if (!jdr_range_is_logged(range)) {
            if (primary->failed) /* while the range was waited for */
                return primary->failed;
            result = jdr_primary_change_within(primary, change, filter->stall_limit_ns);
            jdr_primary_owe(primary, change);
            primary->direct++;
            return result;
        }
        jdr_pace_add(&primary->pace, weight); /* first: the applier may be quick */
        if ((result = jdr_log_or_bypass(filter, range->room, change)))
            return result;
        jdr_pace_subtract(&primary->pace, weight);
        release(filter, range); /* logging went off meanwhile: try again, to the primary alone */
    }
}

/* ---- reads ------------------------------------------------------------------------------------------------------ */

static int read_held(jdr_filter *filter, uint64_t offset, void *target, size_t length)
{
    int result = jdr_primary_read(&filter->primary, offset, target, length);
    if (!result)
        jdr_pending_overlay(filter->ring, filter->primary.disk, offset, target, length);
    return result;
}

/* Read with the range held, so that nothing in it is applied or appended meanwhile. */
static int read_pending(jdr_filter *filter, uint64_t offset, void *target, size_t length)
{
    struct jdr_range range = {.begin = offset, .end = offset + length};
    jdr_ranges_hold(&filter->primary.ranges, &range, filter->share);
    int result = filter->primary.failed ? filter->primary.failed : read_held(filter, offset, target, length);
    release(filter, &range);
    return result;
}

static int read_any(jdr_filter *filter, uint64_t offset, void *target, size_t length)
{
    if (jdr_pending_any(filter->ring))
        return read_pending(filter, offset, target, length);
    /* `failed` is read after the check: what the primary failed to take is no longer pending */
    return filter->primary.failed ? filter->primary.failed : jdr_primary_read(&filter->primary, offset, target, length);
}

static bool is_hole(const jdr_filter *filter, uint64_t offset, uint64_t length)
{
    return !is_pending(filter, offset, length) && jdr_primary_is_hole(&filter->primary, offset, length);
}

/* ---- flushes ---------------------------------------------------------------------------------------------------- */

/*
 * Make everything up to `lsn` durable in the log. With logging off, make it durable in the primary, which then has
 * everything.
 */
static int flush_up_to(jdr_filter *filter, uint64_t lsn)
{
    struct jdr_primary *primary = &filter->primary;
    do {
        while (jdr_ring_logging(filter->ring))
            if (jdr_durable_or_bypass(filter, lsn)) /* what bypassed the log earlier may be in the primary alone */
                return primary->direct_synced < primary->direct ? jdr_applier_sync(filter->applier, primary)
                                                                : primary->failed;
    } while (!jdr_applier_wait_settled(filter->applier));
    jdr_applier_wait_applied(filter->applier, lsn); /* changes that got an LSN just as logging went off */
    return jdr_applier_sync(filter->applier, primary);
}

static int64_t flush(jdr_filter *filter)
{
    bool known = filter->primary.failed;
    uint64_t lsn = jdr_ring_lsn_reserved(filter->ring);
    int failed = flush_up_to(filter, lsn);
    if (failed) /* a known loss does not switch logging off again */
        return known ? failed : jdr_suspect_and_bypass(filter, failed);
    return (int64_t)lsn;
}

static void end(jdr_filter *filter)
{
    uint64_t lsn = jdr_ring_lsn_reserved(filter->ring);
    flush_up_to(filter, lsn);
    jdr_applier_wait_applied(filter->applier, lsn);
    /* Before the applier lets go of the primary: from then on the log may forget what the primary was given. */
    jdr_applier_sync(filter->applier, &filter->primary);
    jdr_applier_remove(filter->applier, &filter->primary);
}

const struct jdr_mode jdr_write_back = {
    .change = change,
    .read = read_any,
    .flush = flush,
    .end = end,
    .read_held = read_held,
    .is_hole = is_hole,
    .hold_bypassing = hold_bypassing,
    .cuts = true,
};
