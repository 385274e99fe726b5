/*
 * filter.c: the IO filter, the shim on one disk's I/O path: its life, and the begin and end of every call.
 *
 * Invariants: a rejected call has changed nothing. The disk's mode decides the steps of a call that has begun. Every
 * change is counted when its range is given back. filter.h lists the files that a write passes through.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "applier.h"
#include "filter.h"
#include "pending.h"
#include "ring.h"

/* ---- life ------------------------------------------------------------------------------------------------------- */

static bool valid_options(const struct jdr_filter_options *options)
{
    uint64_t longest = options->ring ? jdr_ring_record_bytes_max(options->ring) : JDR_RECORD_BYTES_MAX;
    return options->size_bytes % JDR_SECTOR == 0 && options->record_bytes_max % JDR_SECTOR == 0 &&
           options->record_bytes_max >= JDR_SECTOR && options->record_bytes_max <= longest &&
           options->primary.block_bytes <= JDR_SECTOR && options->stall_limit_ns >= 0 &&
           (!options->bypass || (options->ring && jdr_ring_in_file(options->ring))) &&
           (!options->applier || options->bypass) &&
           (!options->map || (options->ring && options->map->file.size_bytes == options->size_bytes));
}

static const struct jdr_mode *mode_of(const struct jdr_filter_options *options)
{
    if (!options->ring)
        return &jdr_unprotected;
    if (options->applier)
        return &jdr_write_back;
    return options->bypass ? &jdr_write_through_or_bypass : &jdr_write_through;
}

static int join_applier(jdr_filter *filter, jdr_applier *applier)
{
    filter->applier = applier;
    filter->primary.direct = 1; /* what the last host had not flushed is unknown */
    if (jdr_pending_has_failed(filter->ring, filter->primary.disk))
        jdr_primary_lose(&filter->primary, -(JDR_PRIMARY | EIO));
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
    filter->mode = mode_of(options);
    filter->ring = options->ring;
    filter->record_bytes_max = options->record_bytes_max;
    filter->stall_limit_ns = options->stall_limit_ns;
    if (options->ring)
        filter->share = jdr_ring_share(options->ring);
    jdr_primary_init(&filter->primary, &options->primary, options->disk, options->size_bytes);
    filter->primary.map = options->map;
    if (options->applier && join_applier(filter, options->applier)) {
        jdr_filter_destroy(filter);
        return -ENOMEM;
    }
    *out = filter;
    return 0;
}

uint64_t jdr_filter_size(const jdr_filter *filter)
{
    return filter->primary.size_bytes;
}

int jdr_filter_grow(jdr_filter *filter, uint64_t size_bytes)
{
    uint64_t size = filter->primary.size_bytes;
    if (filter->primary.map) /* it has no states for more regions */
        return -EOPNOTSUPP;
    if (size_bytes % JDR_SECTOR)
        return -EINVAL;
    do
        if (size_bytes < size)
            return -EINVAL;
    while (!atomic_compare_exchange_weak(&filter->primary.size_bytes, &size, size_bytes));
    return 0;
}

int jdr_filter_grow_map(jdr_filter *filter, uint64_t size_bytes, const struct jdr_device *sidecar, jdr_dirty_map **map)
{
    struct jdr_primary *primary = &filter->primary;
    struct jdr_range whole = {.begin = 0, .end = primary->size_bytes};
    jdr_dirty_map *grown = NULL;
    if (!primary->map || size_bytes % JDR_SECTOR || size_bytes < primary->size_bytes)
        return -EINVAL;
    if (!jdr_ranges_enter(&primary->ranges))
        return -ESHUTDOWN;
    jdr_ranges_hold(&primary->ranges, &whole, filter->share);
    int result = jdr_dirty_map_grow(&grown, sidecar, primary->map, size_bytes);
    if (!result) {
        jdr_lock_until(&primary->mutex, INT64_MAX); /* a flush that fails looks at the map */
        *map = primary->map = grown;
        if (primary->failed) /* maybe just now, and the smaller map alone was told */
            jdr_dirty_map_owe_marked(grown);
        primary->size_bytes = size_bytes;
        pthread_mutex_unlock(&primary->mutex);
    }
    jdr_ranges_release(&primary->ranges, &whole);
    jdr_ranges_leave(&primary->ranges);
    return result;
}

void jdr_filter_close(jdr_filter *filter)
{
    jdr_ranges_close(&filter->primary.ranges);
    if (filter->mode->end)
        filter->mode->end(filter);
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

/* ---- changes ---------------------------------------------------------------------------------------------------- */

/* With the mutex held. */
static void count_change(jdr_filter *filter, const struct jdr_change *change, int64_t lsn)
{
    struct jdr_filter_stats *stats = &filter->stats;
    jdr_primary_note(&filter->primary, JDR_ANSWER_CHANGE, lsn);
    if (lsn < 0) {
        stats->failed_writes++;
        stats->suspect |= (-lsn & JDR_SUSPECT) != 0;
        return;
    }
    *(change->pieces ? &stats->writes : &stats->zeros) += 1;
    *(change->pieces ? &stats->write_bytes : &stats->zero_bytes) += change->length;
    if (filter->ring && lsn == 0) {
        stats->unlogged_writes++;
        stats->unlogged_bytes += change->length;
    }
}

static int64_t change(jdr_filter *filter, const struct jdr_change *change)
{
    struct jdr_ranges *ranges = &filter->primary.ranges;
    struct jdr_range range = {.begin = change->offset, .end = change->offset + change->length};
    if (!jdr_ranges_enter(ranges))
        return -ESHUTDOWN;
    range.waited_ns = jdr_throttle(filter, jdr_payload_bytes(change));
    int64_t lsn = filter->mode->change(filter, change, &range);
    if (jdr_ranges_release(ranges, &range))
        count_change(filter, change, lsn);
    jdr_ranges_leave(ranges);
    return lsn;
}

static int64_t write_one(jdr_filter *filter, const uint8_t *data, size_t length, uint64_t offset)
{
    struct iovec piece = {(void *)data, length};
    return change(filter, &(struct jdr_change){.offset = offset, .length = length, .pieces = &piece, .count = 1});
}

/* The longest write that becomes one record now. A ring takes less after it was given a shorter log. */
static uint64_t longest_record(const jdr_filter *filter)
{
    uint64_t ring_takes = filter->ring ? jdr_ring_record_bytes_max(filter->ring) : JDR_RECORD_BYTES_MAX;
    return ring_takes < filter->record_bytes_max ? ring_takes : filter->record_bytes_max;
}

static int64_t write_several(jdr_filter *filter, const uint8_t *data, size_t length, uint64_t offset)
{
    for (;;) {
        size_t longest = longest_record(filter), piece = length < longest ? length : longest;
        int64_t lsn = piece ? write_one(filter, data, piece, offset) : -EMSGSIZE;
        if (lsn == -EMSGSIZE && piece)
            continue; /* the ring takes less than when we looked */
        if (lsn < 0 || piece == length)
            return lsn;
        data += piece;
        offset += piece;
        length -= piece;
    }
}

int64_t jdr_filter_pwrite(jdr_filter *filter, const void *data, size_t length, uint64_t offset)
{
    bool fits = length <= filter->record_bytes_max;
    if (!jdr_primary_has(&filter->primary, offset, length) || (!fits && !filter->mode->cuts))
        return -EINVAL;
    int64_t lsn = fits ? write_one(filter, data, length, offset) : -EMSGSIZE;
    return lsn == -EMSGSIZE && filter->mode->cuts ? write_several(filter, data, length, offset) : lsn;
}

int64_t jdr_filter_zero(jdr_filter *filter, uint64_t offset, uint64_t length, enum jdr_zeroing zeroing)
{
    struct jdr_change zeros = {.offset = offset, .length = length, .zeroing = zeroing};
    return jdr_primary_has(&filter->primary, offset, length) ? change(filter, &zeros) : -EINVAL;
}

/* ---- reads and flushes ------------------------------------------------------------------------------------------ */

int jdr_filter_pread(jdr_filter *filter, void *target, size_t length, uint64_t offset)
{
    struct jdr_ranges *ranges = &filter->primary.ranges;
    if (!jdr_primary_has(&filter->primary, offset, length))
        return -EINVAL;
    if (!jdr_ranges_enter(ranges))
        return -ESHUTDOWN;
    int result = filter->mode->read(filter, offset, target, length);
    pthread_mutex_lock(&ranges->mutex);
    jdr_primary_note(&filter->primary, JDR_ANSWER_READ, result);
    filter->stats.reads += !result;
    filter->stats.read_bytes += result ? 0 : length;
    jdr_ranges_leave(ranges);
    return result;
}

int64_t jdr_filter_flush(jdr_filter *filter)
{
    struct jdr_ranges *ranges = &filter->primary.ranges;
    if (!jdr_ranges_enter(ranges))
        return -ESHUTDOWN;
    int64_t lsn = filter->mode->flush(filter);
    pthread_mutex_lock(&ranges->mutex);
    jdr_primary_note(&filter->primary, JDR_ANSWER_FLUSH, lsn);
    filter->stats.flushes += lsn >= 0;
    filter->stats.suspect |= lsn < 0 && (-lsn & JDR_SUSPECT);
    jdr_ranges_leave(ranges);
    return lsn;
}

/* ---- dirty map -------------------------------------------------------------------------------------------------- */

/* A primary that fails here has failed a flush that no guest asked for. It is suspect, as after a guest's. */
static int sync_to_clear(jdr_filter *filter)
{
    bool known = filter->primary.failed;
    int failed = filter->applier ? jdr_applier_sync(filter->applier, &filter->primary)
                                 : jdr_primary_sync(&filter->primary);
    if (!failed || known)
        return failed;
    failed = filter->mode->hold_bypassing ? jdr_suspect_and_bypass(filter, failed) : jdr_suspect(failed);
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    filter->stats.suspect = true;
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
    return failed;
}

int jdr_filter_tend_map(jdr_filter *filter)
{
    struct jdr_ranges *ranges = &filter->primary.ranges;
    jdr_dirty_map *map = filter->primary.map;
    int result = 0;
    if (!map || !jdr_ranges_enter(ranges))
        return 0;
    pthread_mutex_lock(&map->tending);
    if (jdr_dirty_map_may_clear(map, filter->ring) && (result = sync_to_clear(filter)) == 0)
        jdr_dirty_map_clear(map);
    jdr_dirty_map_begin_pass(map, ranges, filter->ring);
    jdr_dirty_map_note_alive(map, filter->ring);
    pthread_mutex_unlock(&map->tending);
    jdr_ranges_turn_back(ranges);
    return result;
}

int jdr_filter_settle(jdr_filter *filter, int64_t limit_ns)
{
    struct jdr_ranges *ranges = &filter->primary.ranges;
    if (!jdr_ranges_enter(ranges))
        return -ESHUTDOWN;
    int result = jdr_ranges_wait_released(ranges, jdr_monotonic_ns() + limit_ns);
    jdr_ranges_turn_back(ranges);
    return result;
}

/* ---- what it tells ---------------------------------------------------------------------------------------------- */

void jdr_filter_stats(jdr_filter *filter, struct jdr_filter_stats *stats)
{
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    *stats = filter->stats;
    stats->failed_writes += filter->primary.lost;
    stats->overlaps_waited = filter->primary.ranges.overlaps_waited;
    stats->sync_failed = -filter->primary.failed & JDR_ERRNO_MAX;
    const struct jdr_trouble *trouble = jdr_primary_trouble(&filter->primary);
    if (trouble) {
        stats->trouble = 1 + (uint64_t)(trouble - filter->primary.troubles);
        stats->trouble_errno = (uint64_t)trouble->error;
        stats->trouble_since_ns = (uint64_t)trouble->since_ns;
    }
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
}

void jdr_filter_trust(jdr_filter *filter)
{
    pthread_mutex_lock(&filter->primary.ranges.mutex);
    filter->stats.suspect = false;
    pthread_mutex_unlock(&filter->primary.ranges.mutex);
}
