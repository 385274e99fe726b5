/*
 * filter.c: the IO filter, the shim on one disk's write path (write-through).
 *
 * Invariants: room in the ring is taken before the range, and a range is held only for primary I/O and the copy into the
 * ring, so a holder never waits for replication; a range is held from before the primary's write until the record is
 * published, so log order on any byte is primary order; a write the primary failed is never logged as if it had happened.
 */
#include <stdlib.h>
#include <string.h>

#include "ring_shared.h"

#define PIECE_BYTES (1u << 20) /* read back and logged at a time */

/* A range in flight, on its caller's stack, linked in order of arrival. */
struct range {
    uint64_t begin, end;
    struct range *previous, *next;
};

struct jdr_filter {
    jdr_ring *ring;
    struct jdr_device primary;
    uint32_t disk;
    uint64_t size_bytes, write_bytes_max;
    int64_t stall_limit_ns;
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t released;
    struct range *first, *last;
    unsigned inside, waiting;
    bool closing;
    struct jdr_filter_stats stats;
};

int jdr_filter_open(jdr_filter **out, const struct jdr_filter_options *options)
{
    if (options->size_bytes % JDR_SECTOR || options->write_bytes_max % JDR_SECTOR ||
        (options->ring && options->ring->payload_bytes < 2 * options->write_bytes_max))
        return -EINVAL;
    jdr_filter *filter = calloc(1, sizeof *filter);
    if (!filter)
        return -ENOMEM;
    filter->ring = options->ring;
    filter->primary = options->primary;
    filter->disk = options->disk;
    filter->size_bytes = options->size_bytes;
    filter->write_bytes_max = options->write_bytes_max;
    filter->stall_limit_ns = options->stall_limit_ns;
    pthread_mutexattr_t adaptive; /* it is held for a few instructions: spinning is cheaper than sleeping */
    pthread_mutexattr_init(&adaptive);
    pthread_mutexattr_settype(&adaptive, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&filter->mutex, &adaptive);
    pthread_mutexattr_destroy(&adaptive);
    pthread_cond_init(&filter->released, NULL);
    *out = filter;
    return 0;
}

/* ---- calls inside, and ranges in flight --------------------------------------------------------------------------- */

static int enter(jdr_filter *filter)
{
    pthread_mutex_lock(&filter->mutex);
    int result = filter->closing ? -ESHUTDOWN : 0;
    if (!result)
        filter->inside++;
    pthread_mutex_unlock(&filter->mutex);
    return result;
}

/* With the mutex held. */
static void leave_locked(jdr_filter *filter)
{
    filter->inside--;
    if (filter->closing || filter->waiting)
        pthread_cond_broadcast(&filter->released);
    pthread_mutex_unlock(&filter->mutex);
}

static bool overlaps_earlier(const struct range *range)
{
    for (const struct range *other = range->previous; other; other = other->previous)
        if (other->begin < range->end && range->begin < other->end)
            return true;
    return false;
}

/* Hold [offset, offset + length): first come, first served among overlapping ranges. */
static void hold(jdr_filter *filter, struct range *range, uint64_t offset, uint64_t length)
{
    *range = (struct range){offset, offset + length, NULL, NULL};
    pthread_mutex_lock(&filter->mutex);
    range->previous = filter->last;
    if (filter->last)
        filter->last->next = range;
    else
        filter->first = range;
    filter->last = range;
    if (overlaps_earlier(range)) {
        filter->stats.overlaps_waited++;
        filter->waiting++;
        while (overlaps_earlier(range))
            pthread_cond_wait(&filter->released, &filter->mutex);
        filter->waiting--;
    }
    pthread_mutex_unlock(&filter->mutex);
}

/* Give the range back; returns with the mutex held, for the statistics, to be ended by leave_locked. */
static void release_locked(jdr_filter *filter, struct range *range)
{
    pthread_mutex_lock(&filter->mutex);
    if (range->previous)
        range->previous->next = range->next;
    else
        filter->first = range->next;
    if (range->next)
        range->next->previous = range->previous;
    else
        filter->last = range->previous;
}

/* ---- appending ---------------------------------------------------------------------------------------------------- */

static int admit(jdr_filter *filter, uint64_t payload_bytes)
{
    if (!filter->ring)
        return 0;
    int result = jdr_ring_admit(filter->ring, payload_bytes, 0);
    if (result != -ETIMEDOUT)
        return result;
    int64_t begun = jdr_monotonic_ns();
    result = jdr_ring_admit(filter->ring, payload_bytes, filter->stall_limit_ns);
    int64_t stalled = jdr_monotonic_ns() - begun;
    pthread_mutex_lock(&filter->mutex);
    filter->stats.stalls++;
    filter->stats.stall_ns += (uint64_t)stalled;
    pthread_mutex_unlock(&filter->mutex);
    return result;
}

static int64_t append(jdr_filter *filter, uint8_t kind, uint8_t flags, uint64_t offset, uint64_t length, const void *data)
{
    if (!filter->ring)
        return 0;
    struct jdr_record record = {.offset = offset, .length = length, .disk = filter->disk, .kind = kind, .flags = flags};
    record.payload_bytes = data ? (uint32_t)length : 0;
    return jdr_ring_append(filter->ring, &record, data, data ? length : 0);
}

static bool all_zero(const uint8_t *data, size_t length)
{
    return !length || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

/* Log what `data`, just read from a held range, holds; room for all of it has been admitted. */
static int64_t append_read(jdr_filter *filter, uint8_t flags, uint64_t offset, uint64_t length, const uint8_t *data)
{
    if (!all_zero(data, length))
        return append(filter, JDR_WRITE, flags, offset, length, data);
    jdr_release(filter->ring, 0, length);
    return append(filter, JDR_ZERO, flags, offset, length, NULL);
}

/* Read back and log a held range, piece by piece. The one place where a holder waits for room: the primary has failed. */
static int64_t log_again(jdr_filter *filter, uint64_t offset, uint64_t length)
{
    uint64_t piece_max = filter->write_bytes_max < PIECE_BYTES ? filter->write_bytes_max : PIECE_BYTES;
    uint8_t *data = NULL;
    int64_t result = posix_memalign((void **)&data, JDR_BLOCK, piece_max) ? -ENOMEM : 0;
    for (uint64_t done = 0, piece; result >= 0 && done < length; done += piece) {
        piece = length - done < piece_max ? length - done : piece_max;
        if ((result = filter->primary.read(&filter->primary, offset + done, data, piece)) == 0 &&
            (result = admit(filter, piece)) == 0)
            result = append_read(filter, JDR_REREAD, offset + done, piece, data);
    }
    free(data);
    return result;
}

/* The primary failed a write or zero in a held range: make the log say what is there, or open a gap. */
static void log_failure(jdr_filter *filter, uint64_t offset, uint64_t length)
{
    static const char reason[] = "{\"reason\":\"a write that the primary failed could not be read back\"}";
    bool suspect = filter->ring && log_again(filter, offset, length) < 0;
    if (suspect && admit(filter, JDR_SECTOR) == 0) {
        struct jdr_record gap = {.disk = filter->disk, .kind = JDR_GAP_OPEN, .payload_bytes = JDR_SECTOR};
        gap.length = sizeof reason - 1;
        jdr_ring_append(filter->ring, &gap, reason, sizeof reason - 1);
    }
    pthread_mutex_lock(&filter->mutex);
    filter->stats.failed_writes++;
    filter->stats.suspect |= suspect;
    pthread_mutex_unlock(&filter->mutex);
}

/* ---- the operations ----------------------------------------------------------------------------------------------- */

static bool within(const jdr_filter *filter, uint64_t offset, uint64_t length)
{
    return offset % JDR_SECTOR == 0 && length % JDR_SECTOR == 0 && length > 0 && length <= filter->size_bytes &&
           offset <= filter->size_bytes - length;
}

/* Write or zero: `data` NULL means zeros. */
static int64_t change(jdr_filter *filter, const void *data, uint64_t length, uint64_t offset, uint8_t flags)
{
    uint64_t payload_bytes = data ? length : 0;
    if (!within(filter, offset, length) || payload_bytes > filter->write_bytes_max)
        return -EINVAL;
    int result = enter(filter);
    if (result)
        return result;
    if ((result = admit(filter, payload_bytes))) {
        pthread_mutex_lock(&filter->mutex);
        leave_locked(filter);
        return result;
    }
    struct range range;
    hold(filter, &range, offset, length);
    struct iovec iov = {(void *)data, length};
    result = data ? filter->primary.write(&filter->primary, offset, &iov, 1)
                  : filter->primary.zero(&filter->primary, offset, length);
    int64_t lsn = result;
    if (result == 0) {
        lsn = append(filter, data ? JDR_WRITE : JDR_ZERO, flags, offset, length, data);
    } else {
        if (filter->ring)
            jdr_ring_cancel(filter->ring, payload_bytes);
        log_failure(filter, offset, length);
    }
    release_locked(filter, &range);
    if (result == 0) {
        *(data ? &filter->stats.writes : &filter->stats.zeros) += 1;
        *(data ? &filter->stats.write_bytes : &filter->stats.zero_bytes) += length;
    }
    leave_locked(filter);
    return lsn;
}

int64_t jdr_filter_pwrite(jdr_filter *filter, const void *data, size_t length, uint64_t offset)
{
    return change(filter, data, length, offset, 0);
}

int64_t jdr_filter_zero(jdr_filter *filter, uint64_t offset, uint64_t length, bool discard)
{
    return change(filter, NULL, length, offset, discard ? JDR_DISCARD : 0);
}

int jdr_filter_pread(jdr_filter *filter, void *target, size_t length, uint64_t offset)
{
    if (!within(filter, offset, length))
        return -EINVAL;
    int result = enter(filter);
    if (result)
        return result;
    result = filter->primary.read(&filter->primary, offset, target, length);
    pthread_mutex_lock(&filter->mutex);
    filter->stats.reads++;
    filter->stats.read_bytes += length;
    leave_locked(filter);
    return result;
}

int64_t jdr_filter_flush(jdr_filter *filter)
{
    int64_t result = enter(filter);
    if (result)
        return result;
    uint64_t lsn = 0;
    if (filter->ring) {
        lsn = jdr_ring_lsn_reserved(filter->ring);
        jdr_ring_request_durable(filter->ring, lsn); /* the log commits while the primary flushes */
    }
    result = filter->primary.sync(&filter->primary);
    if (result == 0 && filter->ring)
        result = jdr_ring_wait_durable(filter->ring, lsn, filter->stall_limit_ns);
    pthread_mutex_lock(&filter->mutex);
    filter->stats.flushes++;
    leave_locked(filter);
    return result ? result : (int64_t)lsn;
}

/* Does the primary's file system say that a held range has no data? */
static bool is_hole(const jdr_filter *filter, uint64_t offset, uint64_t length)
{
    if (filter->primary.fd < 0)
        return false;
    off_t data = lseek(filter->primary.fd, (off_t)offset, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + length;
}

/* With the range held and room admitted for `room` payload bytes. */
static int64_t copy_held(jdr_filter *filter, uint64_t offset, uint64_t length, uint64_t room)
{
    uint8_t *data = NULL;
    int64_t result = -E2BIG;
    if (is_hole(filter, offset, length)) {
        jdr_release(filter->ring, 0, room);
        return append(filter, JDR_ZERO, JDR_BACKGROUND, offset, length, NULL);
    }
    if (room == length)
        result = posix_memalign((void **)&data, JDR_BLOCK, length)
                     ? -ENOMEM
                     : filter->primary.read(&filter->primary, offset, data, length);
    if (result == 0)
        result = append_read(filter, JDR_BACKGROUND, offset, length, data);
    else
        jdr_ring_cancel(filter->ring, room);
    free(data);
    return result;
}

int64_t jdr_filter_copy(jdr_filter *filter, uint64_t offset, uint64_t length)
{
    if (!within(filter, offset, length) || !filter->ring)
        return -EINVAL;
    int64_t result = enter(filter);
    if (result)
        return result;
    uint64_t room = length <= filter->write_bytes_max ? length : 0;
    if ((result = admit(filter, room)) == 0) {
        struct range range;
        hold(filter, &range, offset, length);
        result = copy_held(filter, offset, length, room);
        release_locked(filter, &range);
    } else {
        pthread_mutex_lock(&filter->mutex);
    }
    if (result >= 0)
        filter->stats.background_bytes += length;
    leave_locked(filter);
    return result;
}

void jdr_filter_stats(jdr_filter *filter, struct jdr_filter_stats *stats)
{
    pthread_mutex_lock(&filter->mutex);
    *stats = filter->stats;
    pthread_mutex_unlock(&filter->mutex);
}

void jdr_filter_trust(jdr_filter *filter)
{
    pthread_mutex_lock(&filter->mutex);
    filter->stats.suspect = false;
    pthread_mutex_unlock(&filter->mutex);
}

void jdr_filter_close(jdr_filter *filter)
{
    pthread_mutex_lock(&filter->mutex);
    filter->closing = true;
    while (filter->inside)
        pthread_cond_wait(&filter->released, &filter->mutex);
    pthread_mutex_unlock(&filter->mutex);
}

void jdr_filter_destroy(jdr_filter *filter)
{
    if (!filter)
        return;
    pthread_mutex_destroy(&filter->mutex);
    pthread_cond_destroy(&filter->released);
    free(filter);
}
