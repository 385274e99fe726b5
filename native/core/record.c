/*
 * record.c: builds a disk's log records: changes, background copies, and the read-back after a failed write.
 *
 * Invariants: a range is held until its record is published, so the order of records in the log is, for every byte, the
 * order of changes in the primary. A change that the primary failed is never logged as if it had happened.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filter.h"
#include "ring.h"
#include "threads.h"

#define FLUSH_STEP_NS 50000000ll

static int64_t append(jdr_filter *filter, struct jdr_room room, uint8_t kind, uint8_t flags, uint64_t offset,
                      uint64_t length, const void *data)
{
    struct jdr_record record = {
        .offset = offset, .length = length, .disk = filter->primary.disk, .kind = kind, .flags = flags};
    record.payload_bytes = data ? (uint32_t)length : 0;
    return jdr_ring_append(filter->ring, room, &record, data, data ? length : 0);
}

int64_t jdr_log_change(jdr_filter *filter, struct jdr_room room, const struct jdr_change *change)
{
    if (change->pieces)
        return append(filter, room, JDR_WRITE, 0, change->offset, change->length, change->pieces->iov_base);
    uint8_t flags = change->zeroing == JDR_ZERO_DISCARDS ? JDR_DISCARD : 0;
    return append(filter, room, JDR_ZERO, flags, change->offset, change->length, NULL);
}

int64_t jdr_log_or_bypass(jdr_filter *filter, struct jdr_room room, const struct jdr_change *change)
{
    int64_t lsn = jdr_log_change(filter, room, change);
    if (lsn >= 0)
        return lsn;
    if (lsn != -ECANCELED)
        jdr_ring_stop_logging(filter->ring, JDR_OFF_FULL, filter->primary.disk);
    return 0;
}

/* In steps, because the log may be found to be full meanwhile. */
static int wait_durable(jdr_filter *filter, uint64_t lsn, int64_t *limit_ns)
{
    int64_t begun = jdr_monotonic_ns(), waited_ns = 0, left_ns = jdr_patience(filter, 0);
    for (;;) {
        int result = jdr_ring_wait_durable(filter->ring, lsn, left_ns < FLUSH_STEP_NS ? left_ns : FLUSH_STEP_NS);
        int64_t now_ns = jdr_monotonic_ns() - begun;
        jdr_throttle_waited(filter, now_ns - waited_ns);
        waited_ns = now_ns;
        left_ns = jdr_patience(filter, waited_ns);
        *limit_ns = waited_ns + left_ns;
        if (result != -ETIMEDOUT || left_ns <= 0)
            return result;
    }
}

bool jdr_durable_or_bypass(jdr_filter *filter, uint64_t lsn)
{
    int64_t limit_ns;
    int result = wait_durable(filter, lsn, &limit_ns);
    if (result && result != -ECANCELED)
        jdr_ring_stop_logging(filter->ring, limit_ns < filter->stall_limit_ns ? JDR_OFF_OVERLOAD : JDR_OFF_FLUSH,
                              filter->primary.disk);
    return result == 0;
}

int jdr_suspect_and_bypass(jdr_filter *filter, int error)
{
    jdr_ring_stop_logging(filter->ring, JDR_OFF_DISK, filter->primary.disk);
    return jdr_suspect(error);
}

/* ---- what the disk holds ---------------------------------------------------------------------------------------- */

static bool all_zero(const uint8_t *data, size_t length)
{
    return !length || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

/* Log what the disk holds in the range. The room is enough for all of it. */
static int64_t log_held(jdr_filter *filter, struct jdr_room room, uint8_t flags, uint64_t offset, uint64_t length)
{
    uint8_t *data = NULL;
    int64_t result = posix_memalign((void **)&data, JDR_BLOCK, length)
                         ? -ENOMEM
                         : filter->mode->read_held(filter, offset, data, length);
    if (result) {
        jdr_ring_cancel(filter->ring, room);
    } else {
        bool zeros = all_zero(data, length);
        result = append(filter, room, zeros ? JDR_ZERO : JDR_WRITE, flags, offset, length, zeros ? NULL : data);
    }
    free(data);
    return result;
}

bool jdr_log_failure(jdr_filter *filter, struct jdr_room room, const struct jdr_change *change)
{
    if (change->pieces)
        return log_held(filter, room, JDR_REREAD, change->offset, change->length) > 0;
    jdr_ring_cancel(filter->ring, room); /* the room holds no data, and the range may be the whole disk */
    return false;
}

/* ---- background copies ------------------------------------------------------------------------------------------ */

/* With `whole`, the room is enough for all of it. */
static int64_t copy_held(jdr_filter *filter, struct jdr_room room, bool whole, uint64_t offset, uint64_t length)
{
    if (filter->mode->is_hole(filter, offset, length))
        return append(filter, room, JDR_ZERO, JDR_BACKGROUND, offset, length, NULL);
    if (whole)
        return log_held(filter, room, JDR_BACKGROUND, offset, length);
    jdr_ring_cancel(filter->ring, room);
    return -E2BIG;
}

int64_t jdr_filter_copy(jdr_filter *filter, uint64_t offset, uint64_t length)
{
    if (!jdr_primary_has(&filter->primary, offset, length) || !filter->ring)
        return -EINVAL;
    struct jdr_ranges *ranges = &filter->primary.ranges;
    struct jdr_range range = {.begin = offset, .end = offset + length};
    bool whole = length <= filter->record_bytes_max;
    if (!jdr_ranges_enter(ranges))
        return -ESHUTDOWN;
    int64_t result = jdr_room_take(filter, &range, whole ? length : 0, filter->stall_limit_ns);
    if (!result)
        result = copy_held(filter, range.room, whole, offset, length);
    if (result > 0 && filter->primary.map)
        jdr_dirty_map_copied(filter->primary.map, offset, length);
    jdr_ranges_release(ranges, &range);
    filter->stats.background_bytes += result < 0 ? 0 : length;
    jdr_ranges_leave(ranges);
    return result;
}
