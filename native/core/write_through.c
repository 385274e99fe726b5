/*
 * write_through.c: the ways of writing in which the primary comes first. A change completes when the primary has it and
 * the ring has its record. A flush completes when both are durable.
 *
 * An embedded caller gets an error when the log has no room. A guest's write bypasses the log instead.
 */
#include "filter.h"
#include "ring.h"

static int64_t change(jdr_filter *filter, const struct jdr_change *change, struct jdr_range *range)
{
    int64_t limit_ns = filter->stall_limit_ns - range->waited_ns;
    int refused = jdr_room_take(filter, range, jdr_payload_bytes(change), limit_ns);
    if (refused)
        return refused;
    int failed = jdr_primary_change_within(&filter->primary, change, filter->stall_limit_ns);
    int64_t lsn = failed ? 0 : jdr_log_change(filter, range->room, change);
    if (lsn > 0 || (failed && jdr_log_failure(filter, range->room, change)))
        return failed ? failed : lsn;
    jdr_primary_owe(&filter->primary, change);
    return failed ? jdr_suspect(failed) : lsn;
}

static int64_t change_or_bypass(jdr_filter *filter, const struct jdr_change *change, struct jdr_range *range)
{
    int refused = jdr_room_or_bypass(filter, range, jdr_payload_bytes(change));
    if (refused)
        return refused;
    int failed = jdr_primary_change_within(&filter->primary, change, filter->stall_limit_ns);
    bool logged = jdr_range_is_logged(range);
    int64_t lsn = logged && !failed ? jdr_log_or_bypass(filter, range->room, change) : 0;
    if (lsn > 0 || (logged && failed && jdr_log_failure(filter, range->room, change)))
        return failed ? failed : lsn;
    jdr_primary_owe(&filter->primary, change);
    return logged && failed ? jdr_suspect_and_bypass(filter, failed) : failed;
}

static bool hold_bypassing(jdr_filter *filter, struct jdr_range *range)
{
    jdr_ranges_hold(&filter->primary.ranges, range, filter->share);
    if (!jdr_ring_logging(filter->ring)) /* with the range held: any later copy is then ordered after this write */
        return true;
    jdr_ranges_release(&filter->primary.ranges, range);
    jdr_ranges_unlock(&filter->primary.ranges);
    return false;
}

static int read_primary(jdr_filter *filter, uint64_t offset, void *target, size_t length)
{
    return jdr_primary_read(&filter->primary, offset, target, length);
}

static bool is_hole(const jdr_filter *filter, uint64_t offset, uint64_t length)
{
    return jdr_primary_is_hole(&filter->primary, offset, length);
}

/* Flush the primary, while the log commits everything up to *lsn, the last LSN given out. */
static int flush_primary(jdr_filter *filter, uint64_t *lsn)
{
    *lsn = jdr_ring_lsn_reserved(filter->ring);
    jdr_ring_request_durable(filter->ring, *lsn);
    return jdr_primary_sync(&filter->primary);
}

static int64_t flush(jdr_filter *filter)
{
    uint64_t lsn;
    int failed = flush_primary(filter, &lsn);
    if (failed)
        return jdr_suspect(failed);
    int result = jdr_ring_wait_durable(filter->ring, lsn, filter->stall_limit_ns);
    return result ? result : (int64_t)lsn;
}

static int64_t flush_or_bypass(jdr_filter *filter)
{
    uint64_t lsn;
    bool known = filter->primary.failed;
    int failed = flush_primary(filter, &lsn);
    if (failed) /* a known loss does not switch logging off again */
        return known ? failed : jdr_suspect_and_bypass(filter, failed);
    jdr_durable_or_bypass(filter, lsn);
    return (int64_t)lsn;
}

const struct jdr_mode jdr_write_through = {
    .change = change,
    .read = read_primary,
    .flush = flush,
    .read_held = read_primary,
    .is_hole = is_hole,
};

const struct jdr_mode jdr_write_through_or_bypass = {
    .change = change_or_bypass,
    .read = read_primary,
    .flush = flush_or_bypass,
    .read_held = read_primary,
    .is_hole = is_hole,
    .hold_bypassing = hold_bypassing,
    .cuts = true,
};
