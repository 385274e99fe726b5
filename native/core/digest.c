/*
 * digest.c: the digest of what a disk holds in a range, exactly at one LSN.
 *
 * Invariant: the range is held while it is read and while the LSN is taken. So every record of the range up to that LSN
 * is published, and no later one exists: the digest is that of the range at the LSN.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "filter.h"
#include "ring.h"

/* With the range held. The LSN, or an error. */
static int64_t digest_held(jdr_filter *filter, uint64_t offset, uint8_t *data, size_t length)
{
    int failed = filter->primary.failed;
    if (!failed)
        failed = filter->mode->read_held(filter, offset, data, length);
    if (failed)
        return failed;
    return jdr_ring_logging(filter->ring) ? (int64_t)jdr_ring_lsn_reserved(filter->ring) : -ECANCELED;
}

int64_t jdr_filter_digest(jdr_filter *filter, uint64_t offset, size_t length, uint8_t digest[JDR_DIGEST])
{
    if (!jdr_primary_has(&filter->primary, offset, length) || !filter->ring || length > JDR_DIGEST_BYTES_MAX)
        return -EINVAL;
    struct jdr_ranges *ranges = &filter->primary.ranges;
    struct jdr_range range = {.begin = offset, .end = offset + length};
    uint8_t *data = NULL;
    if (posix_memalign((void **)&data, JDR_BLOCK, length))
        return -ENOMEM;
    if (!jdr_ranges_enter(ranges)) {
        free(data);
        return -ESHUTDOWN;
    }
    jdr_ranges_hold(ranges, &range, filter->share);
    int64_t lsn = digest_held(filter, offset, data, length);
    jdr_ranges_release(ranges, &range);
    if (lsn >= 0 && filter->stats.suspect) /* with the mutex held */
        lsn = -ECANCELED;
    jdr_ranges_leave(ranges);
    if (lsn >= 0) {
        XXH128_canonical_t canonical;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, length));
        memcpy(digest, canonical.digest, JDR_DIGEST);
    }
    free(data);
    return lsn;
}
