/*
 * applier.c: write-back. Gives the primaries, in LSN order, what the ring holds and the log has made durable.
 *
 * Invariants: a record is given to its primary with its range held, and the ring keeps it until then, so what a read
 * finds in the primary, with what is still pending laid over it, is the newest; a primary never has what the log might
 * lose, so after a power loss a replay of the log brings every primary to the log's end; with logging off, the marker
 * that forbids that replay is durable before a write goes round the log. Background data is in the primary already.
 */
#include "ring_shared.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REST_NS 20000000ll   /* what is pending waits this long for a flush that comes by itself */
#define SYNC_NS 1000000000ll /* primaries are flushed this often */
#define SETTLE_POLL_NS 100000000ll

struct jdr_applier {
    jdr_ring *ring;
    char *marker, *spare; /* the marker, and the file that becomes it, so that a full file system does not prevent it */
    int folder;
    _Atomic bool stopping;
    _Atomic uint64_t settled; /* number of the switching off for which primaries and marker are as they must be */
    int64_t synced_ns;
    pthread_mutex_t mutex; /* guards the filters */
    pthread_cond_t changed;
    jdr_filter **filters;
    size_t filter_count;
};

/* ---- the marker ------------------------------------------------------------------------------------------------- */

static int make_spare(jdr_applier *applier)
{
    int fd = open(applier->spare, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int result = fsync(fd) || fsync(applier->folder) ? -errno : 0;
    close(fd);
    return result;
}

static int set_marker(jdr_applier *applier)
{
    if (rename(applier->spare, applier->marker) &&
        access(applier->marker, F_OK)) { /* off again before there was a spare */
        int result = make_spare(applier);
        if (result || rename(applier->spare, applier->marker))
            return result ? result : -errno;
    }
    return fsync(applier->folder) ? -errno : 0;
}

static int open_folder(const char *path)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int result = fd < 0 ? -(copy ? errno : ENOMEM) : fd;
    free(copy);
    return result;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

int jdr_applier_create(jdr_applier **out, jdr_ring *ring, const char *marker)
{
    if (!jdr_in_file(ring) || !ring->write_back || ring->side != JDR_HOST)
        return -EINVAL;
    jdr_applier *applier = calloc(1, sizeof *applier);
    if (!applier)
        return -ENOMEM;
    applier->ring = ring;
    pthread_mutex_init(&applier->mutex, NULL);
    pthread_cond_init(&applier->changed, NULL);
    applier->folder = open_folder(marker);
    applier->marker = strdup(marker);
    int result = applier->folder < 0 ? applier->folder : 0;
    if (!result && (!applier->marker || asprintf(&applier->spare, "%s.spare", marker) < 0))
        result = -ENOMEM;
    if (!result)
        result = make_spare(applier);
    if (result) {
        jdr_applier_destroy(applier);
        return result;
    }
    *out = applier;
    return 0;
}

void jdr_applier_destroy(jdr_applier *applier)
{
    if (!applier)
        return;
    if (applier->folder >= 0)
        close(applier->folder);
    free(applier->spare);
    free(applier->marker);
    free(applier->filters);
    pthread_mutex_destroy(&applier->mutex);
    pthread_cond_destroy(&applier->changed);
    free(applier);
}

int jdr_applier_add(jdr_applier *applier, jdr_filter *filter)
{
    pthread_mutex_lock(&applier->mutex);
    jdr_filter **more = realloc(applier->filters, (applier->filter_count + 1) * sizeof *more);
    if (more) {
        applier->filters = more;
        more[applier->filter_count++] = filter;
    }
    pthread_mutex_unlock(&applier->mutex);
    return more ? 0 : -ENOMEM;
}

void jdr_applier_remove(jdr_applier *applier, jdr_filter *filter)
{
    pthread_mutex_lock(&applier->mutex);
    for (size_t i = 0; i < applier->filter_count; i++)
        if (applier->filters[i] == filter)
            applier->filters[i--] = applier->filters[--applier->filter_count];
    pthread_mutex_unlock(&applier->mutex);
}

/* ---- a primary that failed -------------------------------------------------------------------------------------- */

bool jdr_applier_has_failed(const jdr_applier *applier, uint32_t disk)
{
    uint64_t failed = atomic_load(&applier->ring->shared->primary_failed);
    return failed == disk + 1ull || failed == JDR_SEVERAL;
}

/* ---- what is pending -------------------------------------------------------------------------------------------- */

bool jdr_applier_has_pending(const jdr_applier *applier)
{
    return atomic_load(&applier->ring->shared->lsn_applied) < jdr_ring_lsn_reserved(applier->ring);
}

/* A background record does not: it says what the disk holds, and is passed by without its range. */
static bool changes_a_disk(const jdr_ring *ring, uint64_t lsn, const struct jdr_record *record)
{
    return !(record->flags & JDR_BACKGROUND) && jdr_is_sound(ring, lsn, record) &&
           record->length <= UINT64_MAX - record->offset &&
           (record->kind == JDR_ZERO || (record->kind == JDR_WRITE && record->payload_bytes == record->length));
}

/*
 * Is record `lsn` pending, and does it change the disk in that range, which is held? One that does stays; the others
 * may be applied meanwhile, and their slots reserved again, so what is believed is a copy of one that is still pending.
 */
static bool overlaps(const jdr_ring *ring, uint64_t lsn, uint32_t disk, uint64_t offset, uint64_t length,
                     struct jdr_record *record)
{
    if (!jdr_published(ring, lsn)) /* then nobody was told that it is there */
        return false;
    *record = *jdr_slot(ring, lsn);
    bool changes = record->disk == disk && changes_a_disk(ring, lsn, record);
    atomic_thread_fence(memory_order_acquire);
    return changes && jdr_published(ring, lsn) && atomic_load(&ring->shared->lsn_applied) < lsn &&
           record->offset < offset + length && offset < record->offset + record->length;
}

bool jdr_applier_overlaps(const jdr_applier *applier, uint32_t disk, uint64_t offset, uint64_t length)
{
    const jdr_ring *ring = applier->ring;
    uint64_t applied = atomic_load(&ring->shared->lsn_applied), last = jdr_ring_lsn_reserved(ring);
    struct jdr_record record;
    for (uint64_t lsn = applied + 1; lsn <= last; lsn++)
        if (overlaps(ring, lsn, disk, offset, length, &record))
            return true;
    return false;
}

/* Lay payload bytes [from, from + length) of a record over target. */
static void lay(const jdr_ring *ring, const struct jdr_record *record, uint64_t from, uint8_t *target, uint64_t length)
{
    if (record->kind == JDR_ZERO) {
        memset(target, 0, length);
        return;
    }
    struct iovec pieces[2];
    uint64_t position = jdr_end(ring, record->lsn) - record->payload_bytes;
    int count = jdr_payload_pieces(ring, position + from, length, pieces);
    for (int i = 0; i < count; target += pieces[i++].iov_len)
        memcpy(target, pieces[i].iov_base, pieces[i].iov_len);
}

void jdr_applier_overlay(const jdr_applier *applier, uint32_t disk, uint64_t offset, void *target, uint64_t length)
{
    const jdr_ring *ring = applier->ring;
    uint64_t applied = atomic_load(&ring->shared->lsn_applied), last = jdr_ring_lsn_reserved(ring);
    struct jdr_record record;
    for (uint64_t lsn = applied + 1; lsn <= last; lsn++) {
        if (!overlaps(ring, lsn, disk, offset, length, &record))
            continue;
        uint64_t end = record.offset + record.length;
        uint64_t low = record.offset > offset ? record.offset : offset,
                 high = end < offset + length ? end : offset + length;
        lay(ring, &record, low - record.offset, (uint8_t *)target + (low - offset), high - low);
    }
}

/* ---- applying --------------------------------------------------------------------------------------------------- */

/* The filter of a disk, or NULL: it is no longer protected. Only the run's thread may use it, until the next look. */
static jdr_filter *filter_of(jdr_applier *applier, uint32_t disk)
{
    for (size_t i = 0; i < applier->filter_count; i++)
        if (jdr_filter_disk(applier->filters[i]) == disk)
            return applier->filters[i];
    return NULL;
}

/* False: no disk takes it, and it is pending as before. */
static bool apply(jdr_applier *applier, uint64_t lsn)
{
    const jdr_ring *ring = applier->ring;
    const struct jdr_record record = *jdr_slot(ring, lsn);
    if (!changes_a_disk(ring, lsn, &record))
        return false;
    struct iovec pieces[2];
    int count = jdr_payload_pieces(ring, jdr_end(ring, lsn) - record.payload_bytes, record.payload_bytes, pieces);
    pthread_mutex_lock(&applier->mutex);
    jdr_filter *filter = filter_of(applier, record.disk);
    if (filter)
        jdr_filter_apply(filter, &record, pieces, count);
    pthread_mutex_unlock(&applier->mutex);
    return filter != NULL;
}

/* Will a record that is not published never be one that changes a disk? */
static bool is_nothing(const jdr_ring *ring, uint64_t lsn)
{
    struct jdr_claim claim;
    memcpy(&claim, jdr_slot(ring, lsn)->reserved, sizeof claim);
    return !jdr_published(ring, lsn) && (claim.side_plus_1 == JDR_DRVA + 1 || jdr_ring_is_orphan(ring, lsn));
}

/* Apply what may be applied; false: nothing. */
static bool apply_some(jdr_applier *applier)
{
    jdr_ring *ring = applier->ring;
    uint64_t begun = atomic_load(&ring->shared->lsn_applied), lsn = begun;
    uint64_t last = jdr_logging(ring) ? jdr_ring_lsn_durable(ring) : jdr_ring_lsn_reserved(ring);
    while (lsn < last && (jdr_published(ring, lsn + 1) || is_nothing(ring, lsn + 1))) {
        if (!jdr_published(ring, ++lsn) || !apply(applier, lsn))
            jdr_release(ring, &ring->shared->lsn_applied, lsn);
    }
    if (lsn > begun) {
        pthread_mutex_lock(&applier->mutex);
        pthread_cond_broadcast(&applier->changed);
        pthread_mutex_unlock(&applier->mutex);
    }
    return lsn > begun;
}

/* Flush the primaries: what they have been given is then theirs, and the log may forget it. */
static void sync_primaries(jdr_applier *applier)
{
    struct jdr_ring_shared *shared = applier->ring->shared;
    uint64_t before = atomic_load(&shared->lsn_primary), applied = atomic_load(&shared->lsn_applied);
    pthread_mutex_lock(&applier->mutex);
    for (size_t i = 0; i < applier->filter_count; i++)
        jdr_filter_sync_primary(applier->filters[i]);
    pthread_mutex_unlock(&applier->mutex);
    if (!atomic_load(&shared->primary_failed)) /* unless the ring began anew meanwhile */
        atomic_compare_exchange_strong(&shared->lsn_primary, &before, applied);
    applier->synced_ns = jdr_monotonic_ns();
}

static bool sync_is_due(const jdr_applier *applier)
{
    const struct jdr_ring_shared *shared = applier->ring->shared;
    return atomic_load(&shared->lsn_applied) > atomic_load(&shared->lsn_primary) &&
           !atomic_load(&shared->primary_failed) && jdr_monotonic_ns() - applier->synced_ns >= SYNC_NS;
}

/* A marker beside logging that is on would forbid the replay of what the log alone holds. */
static void drop_marker(jdr_applier *applier)
{
    if (unlink(applier->marker) == 0)
        fsync(applier->folder);
}

/* Is logging off, and was it all the time since `off`? */
static bool is_still(const jdr_applier *applier, const struct jdr_ring_off *off)
{
    struct jdr_ring_off now;
    jdr_ring_off(applier->ring, &now);
    return !off->logging && !now.logging && now.count == off->count;
}

/* Since `off` nothing was pending: allow writes to the primaries alone. */
static void settle(jdr_applier *applier, const struct jdr_ring_off *off)
{
    sync_primaries(applier);
    if (!is_still(applier, off) || set_marker(applier))
        return; /* tried again: without the marker a replay could destroy what is written now */
    if (jdr_logging(
            applier->ring)) { /* on meanwhile, behind a GAP_OPEN: an earlier host's marker was enough for that */
        drop_marker(applier);
        return;
    }
    pthread_mutex_lock(&applier->mutex);
    atomic_store(&applier->settled, off->count);
    pthread_cond_broadcast(&applier->changed);
    pthread_mutex_unlock(&applier->mutex);
}

/* Logging is on: a marker that came too late for the one who removes it is obsolete, and the next one needs a spare. */
static void prepare(jdr_applier *applier)
{
    if (access(applier->marker, F_OK) == 0)
        drop_marker(applier);
    if (access(applier->spare, F_OK))
        make_spare(applier);
}

bool jdr_applier_is_settled(const jdr_applier *applier)
{
    struct jdr_ring_off off;
    jdr_ring_off(applier->ring, &off);
    return !off.logging && atomic_load(&applier->settled) == off.count;
}

static void wait_changed(jdr_applier *applier)
{
    int64_t until = jdr_monotonic_ns() + SETTLE_POLL_NS;
    struct timespec deadline = {until / 1000000000ll, until % 1000000000ll};
    pthread_cond_clockwait(&applier->changed, &applier->mutex, CLOCK_MONOTONIC, &deadline);
}

bool jdr_applier_wait_settled(jdr_applier *applier)
{
    pthread_mutex_lock(&applier->mutex);
    while (!jdr_logging(applier->ring) && !jdr_applier_is_settled(applier))
        wait_changed(applier);
    pthread_mutex_unlock(&applier->mutex);
    return !jdr_logging(applier->ring);
}

void jdr_applier_wait_applied(jdr_applier *applier, uint64_t lsn)
{
    pthread_mutex_lock(&applier->mutex);
    while (atomic_load(&applier->ring->shared->lsn_applied) < lsn && jdr_applier_has_pending(applier))
        wait_changed(applier);
    pthread_mutex_unlock(&applier->mutex);
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

/* Nothing to apply: what is pending needs a flush of the log, sooner or later. */
static void rest(jdr_applier *applier, uint32_t seen, bool again)
{
    jdr_ring *ring = applier->ring;
    if (again && jdr_applier_has_pending(applier) && jdr_logging(ring))
        jdr_ring_request_durable(ring, jdr_ring_lsn_reserved(ring));
    jdr_futex_wait(&ring->shared->durable_seq, seen, REST_NS);
}

void jdr_applier_run(jdr_applier *applier)
{
    jdr_ring *ring = applier->ring;
    applier->synced_ns = jdr_monotonic_ns();
    for (bool again = false;; again = true) {
        bool stopping = atomic_load(&applier->stopping);
        uint32_t seen = atomic_load(&ring->shared->durable_seq);
        if (apply_some(applier)) {
            again = false;
            continue;
        }
        struct jdr_ring_off off;
        jdr_ring_off(ring, &off); /* before the look at what is pending: logging may go on and off in between */
        if (!off.logging && !jdr_applier_is_settled(applier) && !jdr_applier_has_pending(applier))
            settle(applier, &off);
        if (jdr_logging(ring))
            prepare(applier);
        if (stopping || sync_is_due(applier))
            sync_primaries(applier);
        if (stopping)
            return;
        rest(applier, seen, again);
    }
}

void jdr_applier_stop(jdr_applier *applier)
{
    atomic_store(&applier->stopping, true);
    jdr_futex_wake(&applier->ring->shared->durable_seq);
}
