/* unprotected.c: the way of writing without a ring. Only the primary is changed, and nothing is logged. */
#include "filter.h"

static int64_t change(jdr_filter *filter, const struct jdr_change *change, struct jdr_range *range)
{
    jdr_ranges_hold(&filter->primary.ranges, range, filter->share);
    return jdr_primary_change(&filter->primary, change);
}

static int read_primary(jdr_filter *filter, uint64_t offset, void *target, size_t length)
{
    return jdr_primary_read(&filter->primary, offset, target, length);
}

static int64_t flush(jdr_filter *filter)
{
    return jdr_primary_sync(&filter->primary);
}

const struct jdr_mode jdr_unprotected = {.change = change, .read = read_primary, .flush = flush, .cuts = true};
