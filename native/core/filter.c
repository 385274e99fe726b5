/*
 * filter.c: the IO filter, the shim on one disk's write path.
 *
 * Invariants: room in the ring is taken before the range, and a range is held only for primary I/O and the copy into
 * the ring, so a holder never waits for replication, whatever its primary does; a range is held from before the
 * primary's write until the record is published, so log order on any byte is primary order; a write the primary failed
 * is never logged as if it had happened; between taking room and publishing, one disk has at most half of the ring.
 * With `bypass` a write that finds logging off, with its range held, goes to the primary alone: whoever switches
 * logging on again copies that range later, and so after it. With an applier (write-back) a write that is logged goes
 * to the ring alone; applier.c gives it to the primary, its range held.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "applier.h"
#include "pending.h"
#include "primary.h"
#include "ring.h"

struct jdr_filter {
    jdr_ring *ring;
    jdr_applier *applier;
    uint64_t write_bytes_max;
    struct jdr_room share; /* of the ring, that this disk may have */
    int64_t stall_limit_ns;
    bool bypass;
    struct jdr_primary primary;
    JDR_LINE struct jdr_filter_stats stats; /* guarded by the ranges' mutex; some are the primary's */
};

static bool valid_options(const struct jdr_filter_options *options)
{
    uint64_t longest = options->ring ? jdr_ring_record_bytes_max(options->ring) : JDR_RECORD_BYTES_MAX;
    return options->size_bytes % JDR_SECTOR == 0 && options->write_bytes_max % JDR_SECTOR == 0 &&
           options->write_bytes_max >= JDR_SECTOR && options->write_bytes_max <= longest &&
           options->primary.block_bytes <= JDR_SECTOR && options->stall_limit_ns >= 0 &&
           (!options->bypass || (options->ring && jdr_ring_in_file(options->ring))) &&
           (!options->applier || options->bypass);
}

static int write_behind(jdr_filter *filter, jdr_applier *applier)
{
    filter->applier = applier;
    filter->primary.direct = 1; /* nobody knows what the last host had not flushed */
    if (jdr_pending_has_failed(filter->ring, filter->primary.disk))
        filter->primary.failed = -(JDR_PRIMARY | EIO);
    return jdr_applier_add(applier, &filter->primary); /* last: from now on it may be given records */
}

int jdr_filter_open(jdr_filter **out, const struct jdr_filter_options *options)
{
    if (!valid_options(options))
        return -EINVAL;
    jdr_filter *filter = aligned_alloc(_Alignof(jdr_filter), sizeof *filter);
    if (!filter)
        return -ENOMEM;
    memset(filter, 0, sizeof *filter);
    filter->ring = options->ring;
    filter->write_bytes_max = options->write_bytes_max;
    filter->stall_limit_ns = options->stall_limit_ns;
    filter->bypass = options->bypass;
    if (options->ring)
        filter->share = jdr_ring_share(options->ring);
    jdr_primary_init(&filter->primary, &options->primary, options->disk, options->size_bytes);
    if (options->applier && write_behind(filter, options->applier)) {
        jdr_filter_destroy(filter);
        return -ENOMEM;
    }
    *out = filter;
    return 0;
}

/* ---- the primary ------------------------------------------------------------------------------------------------ */

/* The newest data; with an applier the range is held. */
static int read_newest(const jdr_filter *filter, uint64_t offset, void *target, size_t length)
{
    int result = jdr_primary_read(&filter->primary, offset, target, length);
    if (!result && filter->applier)
        jdr_pending_overlay(filter->ring, filter->primary.disk, offset, target, length);
    return result;
}

/* Write `data`, or zeros where that is NULL. */
static int primary_change(jdr_filter *filter, uint64_t offset, const void *data, uint64_t length)
{
    struct iovec iov = {(void *)data, length};
    struct jdr_change change = {.offset = offset, .length = length, .pieces = data ? &iov : NULL, .count = 1};
    return jdr_primary_change(&filter->primary, &change);
}

/* The primary's error, when primary and log may differ because of it. With bypass the log must not go on as it was. */
static int suspect(const jdr_filter *filter, int error)
{
    if (filter->bypass)
        jdr_ring_stop_logging(filter->ring, JDR_OFF_DISK, filter->primary.disk);
    return filter->ring ? -(-error | JDR_SUSPECT) : error;
}

/* With the mutex held. */
static void note_failure(jdr_filter *filter, int64_t error)
{
    filter->stats.failed_writes++;
    filter->stats.suspect |= (-error & JDR_SUSPECT) != 0;
}

/* ---- room ------------------------------------------------------------------------------------------------------- */

/* There was no room at once: wait for the ring's and for this disk's share, until there is both. */
static int admit_stalled(jdr_filter *filter, struct jdr_range *range, uint64_t payload_bytes)
{
    int64_t begun = jdr_monotonic_ns(), deadline = begun + filter->stall_limit_ns;
    int result;
    while ((result = jdr_ring_admit(filter->ring, payload_bytes, deadline - jdr_monotonic_ns(), &range->room)) == 0) {
        if (jdr_ranges_hold(&filter->primary.ranges, range, filter->share))
            break;
        jdr_ring_cancel(filter->ring, range->room);
        if ((result = jdr_ranges_wait_share(&filter->primary.ranges, range->room, filter->share, deadline)))
            break;
    }
    uint64_t stalled = (uint64_t)(jdr_monotonic_ns() - begun);
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    filter->stats.stalls++;
    filter->stats.stall_ns += stalled;
    if (stalled > filter->stats.stall_ns_max)
        filter->stats.stall_ns_max = stalled;
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
    return result;
}

static int admit_and_hold(jdr_filter *filter, struct jdr_range *range, uint64_t payload_bytes)
{
    int result = filter->ring ? jdr_ring_admit(filter->ring, payload_bytes, 0, &range->room) : 0;
    if (result == 0) {
        if (jdr_ranges_hold(&filter->primary.ranges, range, filter->share))
            return 0;
        jdr_ring_cancel(filter->ring, range->room);
    } else if (result != -ETIMEDOUT) {
        return result;
    }
    return admit_stalled(filter, range, payload_bytes);
}

/* Has one been given an LSN just as logging went off, that the applier would lay over what comes now? The range is
 * held. */
static bool is_pending(const jdr_filter *filter, const struct jdr_range *range)
{
    return filter->applier &&
           jdr_pending_overlaps(filter->ring, filter->primary.disk, range->begin, range->end - range->begin);
}

/* With logging off: hold the range without room. False, and not held: logging is on (again). */
static bool hold_unlogged(jdr_filter *filter, struct jdr_range *range)
{
    range->room = (struct jdr_room){0};
    if (!jdr_ring_logging(filter->ring) && (!filter->applier || jdr_applier_wait_settled(filter->applier))) {
        jdr_ranges_hold(&filter->primary.ranges, range, filter->share);
        /* now that it is held: a copy after logging resumes comes behind it; and off since then, not once more */
        bool off = filter->applier ? jdr_applier_is_settled(filter->applier) : !jdr_ring_logging(filter->ring);
        bool pending = off && is_pending(filter, range);
        if (off && !pending)
            return true;
        jdr_ranges_release(&filter->primary.ranges, range);
        jdr_ranges_unlock(&filter->primary.ranges);
        if (pending)
            jdr_applier_wait_applied(filter->applier, jdr_ring_lsn_reserved(filter->ring));
    }
    return false;
}

/* A guest's call never fails for want of room: logging is switched off instead. A primary that hangs is waited for. */
static int admit_or_bypass(jdr_filter *filter, struct jdr_range *range, uint64_t payload_bytes)
{
    for (;;) {
        if (hold_unlogged(filter, range))
            return 0;
        int result = admit_and_hold(filter, range, payload_bytes);
        if (result == 0)
            return 0;
        if (result != -ECANCELED && result != -EBUSY)
            jdr_ring_stop_logging(filter->ring, JDR_OFF_FULL, filter->primary.disk);
    }
}

/* Enter, take room for a record, hold its range. After an error nothing of that. */
static int begin(jdr_filter *filter, struct jdr_range *range, uint64_t offset, uint64_t length, uint64_t payload_bytes,
                 bool guest)
{
    int result = jdr_ranges_enter(&filter->primary.ranges);
    if (result)
        return result;
    *range = (struct jdr_range){.begin = offset, .end = offset + length};
    result = guest && filter->bypass ? admit_or_bypass(filter, range, payload_bytes)
                                     : admit_and_hold(filter, range, payload_bytes);
    if (result) {
        pthread_mutex_lock(&filter->primary.ranges.mutex);
        jdr_ranges_leave(&filter->primary.ranges);
    }
    return result;
}

/* ---- appending -------------------------------------------------------------------------------------------------- */

static int64_t append(jdr_filter *filter, struct jdr_room room, uint8_t kind, uint8_t flags, uint64_t offset,
                      uint64_t length, const void *data)
{
    struct jdr_record record = {
        .offset = offset, .length = length, .disk = filter->primary.disk, .kind = kind, .flags = flags};
    record.payload_bytes = data ? (uint32_t)length : 0;
    return jdr_ring_append(filter->ring, room, &record, data, data ? length : 0);
}

static bool all_zero(const uint8_t *data, size_t length)
{
    return !length || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

/* Log what the disk holds in a held range. The room, for all of it, is used up in any case. */
static int64_t append_held(jdr_filter *filter, struct jdr_room room, uint8_t flags, uint64_t offset, uint64_t length)
{
    uint8_t *data = NULL;
    int64_t result = posix_memalign((void **)&data, JDR_BLOCK, length) ? -ENOMEM
                                                                       : read_newest(filter, offset, data, length);
    if (result) {
        jdr_ring_cancel(filter->ring, room);
    } else {
        bool zeros = all_zero(data, length);
        result = append(filter, room, zeros ? JDR_ZERO : JDR_WRITE, flags, offset, length, zeros ? NULL : data);
    }
    free(data);
    return result;
}

/* The primary failed to write `data` (NULL: zeros) to a held range. The log says what is there now, or the disk is
 * suspect. */
static int log_failure(jdr_filter *filter, struct jdr_room room, int error, uint64_t offset, const void *data,
                       uint64_t length)
{
    if (data)
        return append_held(filter, room, JDR_REREAD, offset, length) > 0 ? error : suspect(filter, error);
    jdr_ring_cancel(filter->ring, room); /* no room for data, and the range may be the whole disk */
    return suspect(filter, error);
}

/* ---- the operations --------------------------------------------------------------------------------------------- */

/* The record of a change that the primary has accepted, or, in write-back, is to be given: the LSN, or 0: not logged.
 */
static int64_t log_change(jdr_filter *filter, struct jdr_room room, const void *data, uint64_t length, uint64_t offset,
                          uint8_t flags)
{
    int64_t lsn = append(filter, room, data ? JDR_WRITE : JDR_ZERO, flags, offset, length, data);
    if (lsn >= 0 || !filter->bypass)
        return lsn;
    if (lsn != -ECANCELED)
        jdr_ring_stop_logging(filter->ring, JDR_OFF_FULL, filter->primary.disk);
    return 0;
}

/* Write-through, its range held, and logged if there is room for that. */
static int64_t change_held(jdr_filter *filter, struct jdr_room room, bool logged, const void *data, uint64_t length,
                           uint64_t offset, uint8_t flags)
{
    int result = primary_change(filter, offset, data, length);
    if (!logged)
        return result;
    return result ? log_failure(filter, room, result, offset, data, length)
                  : log_change(filter, room, data, length, offset, flags);
}

/* Count, and let the range go. */
static void finish(jdr_filter *filter, struct jdr_range *range, bool zeros, uint64_t length, int64_t lsn)
{
    jdr_ranges_release(&filter->primary.ranges, range);
    if (lsn < 0) {
        note_failure(filter, lsn);
    } else {
        *(zeros ? &filter->stats.zeros : &filter->stats.writes) += 1;
        *(zeros ? &filter->stats.zero_bytes : &filter->stats.write_bytes) += length;
        if (filter->bypass && lsn == 0) {
            filter->stats.unlogged_writes++;
            filter->stats.unlogged_bytes += length;
        }
    }
    jdr_ranges_leave(&filter->primary.ranges);
}

/* Write or zero: `data` NULL means zeros. */
static int64_t change(jdr_filter *filter, const void *data, uint64_t length, uint64_t offset, uint8_t flags)
{
    uint64_t payload_bytes = data ? length : 0;
    if (!jdr_primary_has(&filter->primary, offset, length) || payload_bytes > filter->write_bytes_max)
        return -EINVAL;
    if (filter->primary.failed && filter->applier)
        return filter->primary.failed; /* what was written behind is lost to the primary: nothing more is accepted */
    struct jdr_range range;
    int result = begin(filter, &range, offset, length, payload_bytes, true);
    if (result)
        return result;
    int64_t lsn;
    if (!filter->applier || !jdr_range_is_logged(&range)) {
        lsn = change_held(filter, range.room, jdr_range_is_logged(&range), data, length, offset, flags);
        filter->primary.direct += filter->applier != NULL;
    } else if ((lsn = log_change(filter, range.room, data, length, offset, flags)) == 0) {
        jdr_ranges_release(&filter->primary.ranges, &range); /* switched off meanwhile: again, to the primary alone */
        jdr_ranges_leave(&filter->primary.ranges);
        return change(filter, data, length, offset, flags);
    }
    finish(filter, &range, !data, length, lsn);
    return lsn;
}

int64_t jdr_filter_pwrite(jdr_filter *filter, const void *data, size_t length, uint64_t offset)
{
    size_t longest = filter->bypass ? jdr_ring_record_bytes_max(filter->ring) : length; /* what a shorter log takes */
    if (!jdr_primary_has(&filter->primary, offset, length))
        return -EINVAL;
    for (;;) {
        size_t piece = length < longest ? length : longest;
        int64_t lsn = change(filter, data, piece, offset, 0);
        if (lsn < 0 || piece == length)
            return lsn;
        data = (const uint8_t *)data + piece;
        offset += piece;
        length -= piece;
    }
}

int64_t jdr_filter_zero(jdr_filter *filter, uint64_t offset, uint64_t length, bool discard)
{
    return change(filter, NULL, length, offset, discard ? JDR_DISCARD : 0);
}

/* Nothing that overlaps is applied, or appended, while the primary's data and what is pending are put together. */
static int read_pending(jdr_filter *filter, void *target, size_t length, uint64_t offset)
{
    struct jdr_range range = {.begin = offset, .end = offset + length};
    jdr_ranges_hold(&filter->primary.ranges, &range, filter->share);
    int result = filter->primary.failed ? filter->primary.failed : read_newest(filter, offset, target, length);
    jdr_ranges_release(&filter->primary.ranges, &range);
    jdr_ranges_unlock(&filter->primary.ranges);
    return result;
}

static int read_behind(jdr_filter *filter, void *target, size_t length, uint64_t offset)
{
    if (jdr_pending_any(filter->ring))
        return read_pending(filter, target, length, offset);
    /* looked at after that: what the primary failed to take is no longer pending */
    return filter->primary.failed ? filter->primary.failed : jdr_primary_read(&filter->primary, offset, target, length);
}

int jdr_filter_pread(jdr_filter *filter, void *target, size_t length, uint64_t offset)
{
    if (!jdr_primary_has(&filter->primary, offset, length))
        return -EINVAL;
    int result = jdr_ranges_enter(&filter->primary.ranges);
    if (result)
        return result;
    result = filter->applier ? read_behind(filter, target, length, offset)
                             : jdr_primary_read(&filter->primary, offset, target, length);
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    filter->stats.reads += !result;
    filter->stats.read_bytes += result ? 0 : length;
    jdr_ranges_leave(&filter->primary.ranges);
    return result;
}

/* Wait for the log: 0, also where logging is off and the primary's flush is all there is; -ETIMEDOUT, or the poison. */
static int flush_log(jdr_filter *filter, uint64_t lsn)
{
    int result = jdr_ring_wait_durable(filter->ring, lsn, filter->stall_limit_ns);
    if (!result || !filter->bypass)
        return result;
    if (result != -ECANCELED)
        jdr_ring_stop_logging(filter->ring, JDR_OFF_FLUSH, filter->primary.disk);
    return 0;
}

/* Write-back: durable in the log, or, once logging is off, in the primary, which then has everything. */
static int flush_behind(jdr_filter *filter, uint64_t lsn)
{
    while (jdr_ring_logging(filter->ring)) {
        int result = jdr_ring_wait_durable(filter->ring, lsn, filter->stall_limit_ns);
        if (result == 0) /* what went to the primary alone while logging was off may not be in the log yet */
            return filter->primary.direct_synced < filter->primary.direct
                       ? jdr_applier_sync(filter->applier, &filter->primary)
                       : filter->primary.failed;
        if (result != -ECANCELED)
            jdr_ring_stop_logging(filter->ring, JDR_OFF_FLUSH, filter->primary.disk);
    }
    if (!jdr_applier_wait_settled(filter->applier))
        return flush_behind(filter, lsn);
    jdr_applier_wait_applied(filter->applier, lsn); /* what was given an LSN just as logging went off */
    return jdr_applier_sync(filter->applier, &filter->primary);
}

static void count_flush(jdr_filter *filter, int result, int failed)
{
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    filter->stats.flushes += !result;
    filter->stats.suspect |= failed && -result & JDR_SUSPECT;
    jdr_ranges_leave(&filter->primary.ranges);
}

int64_t jdr_filter_flush(jdr_filter *filter)
{
    int result = jdr_ranges_enter(&filter->primary.ranges), failed, known = filter->primary.failed;
    if (result)
        return result;
    uint64_t lsn = filter->ring ? jdr_ring_lsn_reserved(filter->ring) : 0;
    if (filter->applier) {
        failed = flush_behind(filter, lsn);
    } else {
        if (filter->ring)
            jdr_ring_request_durable(filter->ring, lsn); /* the log commits while the primary flushes */
        failed = jdr_primary_sync(&filter->primary);
        if (!failed && filter->ring)
            result = flush_log(filter, lsn);
    }
    if (failed) /* a loss that is known does not switch logging off again */
        result = known && filter->bypass ? failed : suspect(filter, failed);
    count_flush(filter, result, failed);
    return result ? result : (int64_t)lsn;
}

/* Does the primary's file system say that a held range has no data? */
static bool is_hole(const jdr_filter *filter, uint64_t offset, uint64_t length)
{
    return !(filter->applier && jdr_pending_overlaps(filter->ring, filter->primary.disk, offset, length)) &&
           jdr_primary_is_hole(&filter->primary, offset, length);
}

/* With the range held. The room, for all of it if `whole`, is used up in any case. */
static int64_t copy_held(jdr_filter *filter, struct jdr_room room, bool whole, uint64_t offset, uint64_t length)
{
    if (is_hole(filter, offset, length))
        return append(filter, room, JDR_ZERO, JDR_BACKGROUND, offset, length, NULL);
    if (whole)
        return append_held(filter, room, JDR_BACKGROUND, offset, length);
    jdr_ring_cancel(filter->ring, room);
    return -E2BIG;
}

int64_t jdr_filter_copy(jdr_filter *filter, uint64_t offset, uint64_t length)
{
    if (!jdr_primary_has(&filter->primary, offset, length) || !filter->ring)
        return -EINVAL;
    bool whole = length <= filter->write_bytes_max;
    struct jdr_range range;
    int64_t result = begin(filter, &range, offset, length, whole ? length : 0, false);
    if (result)
        return result;
    result = copy_held(filter, range.room, whole, offset, length);
    jdr_ranges_release(&filter->primary.ranges, &range);
    filter->stats.background_bytes += result < 0 ? 0 : length;
    jdr_ranges_leave(&filter->primary.ranges);
    return result;
}

void jdr_filter_stats(jdr_filter *filter, struct jdr_filter_stats *stats)
{
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    *stats = filter->stats;
    stats->failed_writes += filter->primary.lost;
    stats->overlaps_waited = filter->primary.ranges.overlaps_waited;
    stats->sync_failed = -filter->primary.failed & JDR_ERRNO_MAX;
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
}

void jdr_filter_trust(jdr_filter *filter)
{
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    filter->stats.suspect = false;
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
}

void jdr_filter_close(jdr_filter *filter)
{
    jdr_ranges_close(&filter->primary.ranges);
    if (filter->applier) {
        uint64_t lsn = jdr_ring_lsn_reserved(filter->ring);
        flush_behind(filter, lsn);
        jdr_applier_wait_applied(filter->applier, lsn);
        /* before the applier lets go of it: the log may forget what it was given */
        jdr_applier_sync(filter->applier, &filter->primary);
        jdr_applier_remove(filter->applier, &filter->primary);
    }
}

void jdr_filter_destroy(jdr_filter *filter)
{
    if (!filter)
        return;
    if (filter->applier)
        jdr_applier_remove(filter->applier, &filter->primary);
    jdr_primary_destroy(&filter->primary);
    free(filter);
}
