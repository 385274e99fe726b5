/*
 * applier.c: write-back. Gives the primaries, in LSN order, what the ring holds and the log has made durable.
 *
 * Invariants: a record is given to its primary with its range held, and the ring keeps the record until then. A read
 * that lays what is pending over what the primary has therefore finds the newest data. A primary never has what the log
 * might lose, so after a power loss a replay of the log brings every primary to the log's end. With logging off, a
 * replay would destroy writes that bypassed the log. The bypassed file forbids it, and is durable before the first such
 * write. Background data is in the primary already. The filter calls the applier. The applier calls no filter, and
 * knows only the primaries of the open ones.
 */
#include <errno.h>
#include <stdlib.h>

#include "applier.h"
#include "bypassed_file.h"
#include "pending.h"
#include "ring.h"

#define REST_NS 20000000ll   /* what is pending waits this long for a flush that comes by itself */
#define SYNC_NS 1000000000ll /* primaries are flushed this often */
#define SETTLE_POLL_NS 100000000ll
#define ROOM_POLL_NS 50000000l /* a primary without room is tried again so often */

struct jdr_applier {
    jdr_ring *ring;
    struct jdr_bypassed_file bypassed_file;
    _Atomic bool stopping;
    struct jdr_primary *_Atomic works_on; /* whose device the applier waits for */
    _Atomic uint32_t paced;               /* calls that wait for a primary to catch up */
    _Atomic uint64_t settled;             /* off_count of the logging-off event that we have settled for */
    int64_t synced_ns;
    pthread_mutex_t mutex; /* guards the primaries */
    pthread_cond_t changed;
    struct jdr_primary **primaries;
    size_t primary_count;
};

/* ---- life ------------------------------------------------------------------------------------------------------- */

int jdr_applier_create(jdr_applier **out, jdr_ring *ring, const char *bypassed_file)
{
    if (!jdr_ring_write_back(ring) || !jdr_ring_is_host(ring))
        return -EINVAL;
    jdr_applier *applier = calloc(1, sizeof *applier);
    if (!applier)
        return -ENOMEM;
    applier->ring = ring;
    pthread_mutex_init(&applier->mutex, NULL);
    pthread_cond_init(&applier->changed, NULL);
    int result = jdr_bypassed_file_open(&applier->bypassed_file, bypassed_file);
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
    jdr_bypassed_file_close(&applier->bypassed_file);
    free(applier->primaries);
    pthread_mutex_destroy(&applier->mutex);
    pthread_cond_destroy(&applier->changed);
    free(applier);
}

int jdr_applier_add(jdr_applier *applier, struct jdr_primary *primary)
{
    pthread_mutex_lock(&applier->mutex);
    struct jdr_primary **more = realloc(applier->primaries, (applier->primary_count + 1) * sizeof *more);
    if (more) {
        applier->primaries = more;
        more[applier->primary_count++] = primary;
    }
    pthread_mutex_unlock(&applier->mutex);
    return more ? 0 : -ENOMEM;
}

void jdr_applier_remove(jdr_applier *applier, const struct jdr_primary *primary)
{
    pthread_mutex_lock(&applier->mutex);
    for (size_t i = 0; i < applier->primary_count; i++)
        if (applier->primaries[i] == primary)
            applier->primaries[i--] = applier->primaries[--applier->primary_count];
    pthread_mutex_unlock(&applier->mutex);
}

/* ---- applying --------------------------------------------------------------------------------------------------- */

/* An acknowledged write cannot reach the primary. The disk takes and gives nothing more. Its data is in the log. */
static void fail_disk(const jdr_applier *applier, struct jdr_primary *primary, int error)
{
    jdr_primary_lose(primary, error);
    jdr_ring_note_primary_failure(applier->ring, primary->disk);
}

/* With the range held. */
static int change(struct jdr_primary *primary, const struct jdr_pending *pending, bool is_in_log)
{
    const struct jdr_record *record = &pending->record;
    struct jdr_change change = {.offset = record->offset, .length = record->length, .zeroing = JDR_ZERO_FREES_SPACE};
    if (primary->failed)
        return primary->failed;
    if (!jdr_primary_has(primary, record->offset, record->length))
        return -(JDR_PRIMARY | ERANGE);
    change.is_in_log = is_in_log;
    if (record->kind == JDR_WRITE) {
        change.pieces = pending->pieces;
        change.count = pending->count;
    }
    return jdr_primary_change(primary, &change);
}

static int64_t begin_work(jdr_applier *applier, struct jdr_primary *primary)
{
    atomic_store(&applier->works_on, primary);
    return jdr_monotonic_ns();
}

/* How long it took. */
static int64_t end_work(jdr_applier *applier, int64_t begun)
{
    atomic_store(&applier->works_on, NULL);
    return jdr_monotonic_ns() - begun;
}

/* The primary of a record has no room, or has room again. Until then its guests are told so. */
static void note_room(const jdr_applier *applier, struct jdr_primary *primary, int result)
{
    atomic_store(&primary->full, jdr_primary_is_full(result));
    jdr_ring_note_no_room(applier->ring, jdr_primary_is_full(result));
    pthread_mutex_lock(&primary->ranges.mutex);
    jdr_primary_note(primary, JDR_ANSWER_CHANGE, result);
    pthread_mutex_unlock(&primary->ranges.mutex);
}

/* False if the primary has no room: the record stays pending, and its range is free. */
static bool apply_to(jdr_applier *applier, struct jdr_primary *primary, const struct jdr_pending *pending)
{
    const struct jdr_record *record = &pending->record;
    struct jdr_range range = {.begin = record->offset, .end = record->offset + record->length};
    jdr_ranges_hold(&primary->ranges, &range, (struct jdr_room){0});
    int64_t begun = begin_work(applier, primary);
    bool is_in_log = record->lsn <= jdr_ring_lsn_durable(applier->ring); /* not so, perhaps, while logging is off */
    int result = change(primary, pending, is_in_log);
    jdr_pace_taken(&primary->pace, jdr_pace_weight(record->payload_bytes), end_work(applier, begun));
    bool is_full = jdr_primary_is_full(result) && !primary->failed;
    if (is_full != atomic_load(&primary->full))
        note_room(applier, primary, result);
    if (result && !is_full)
        fail_disk(applier, primary, result);
    /* Before others get the range: they must find the data in the primary or a failed disk, and not in the ring. */
    if (!is_full)
        jdr_pending_applied(applier->ring, record->lsn);
    jdr_ranges_release(&primary->ranges, &range);
    jdr_ranges_unlock(&primary->ranges);
    return !is_full;
}

/* The primary of a disk, or NULL if the disk is no longer protected. With the mutex held. */
static struct jdr_primary *primary_of(const jdr_applier *applier, uint32_t disk)
{
    for (size_t i = 0; i < applier->primary_count; i++)
        if (applier->primaries[i]->disk == disk)
            return applier->primaries[i];
    return NULL;
}

static void apply(jdr_applier *applier, const struct jdr_pending *pending)
{
    for (;;) {
        pthread_mutex_lock(&applier->mutex);
        struct jdr_primary *primary = primary_of(applier, pending->record.disk);
        bool done = !primary || apply_to(applier, primary, pending);
        pthread_mutex_unlock(&applier->mutex);
        if (!primary)
            jdr_pending_applied(applier->ring, pending->record.lsn);
        if (done)
            return;
        jdr_sleep(ROOM_POLL_NS);
    }
}

/* Apply what may be applied. False if there was nothing. */
static bool apply_some(jdr_applier *applier)
{
    jdr_ring *ring = applier->ring;
    uint64_t begun = jdr_pending_lsn_applied(ring), walked = begun;
    uint64_t last = jdr_ring_logging(ring) ? jdr_ring_lsn_durable(ring) : jdr_ring_lsn_reserved(ring);
    struct jdr_pending pending;
    while (jdr_pending_next(ring, &walked, last, &pending))
        apply(applier, &pending);
    if (walked > begun) {
        pthread_mutex_lock(&applier->mutex);
        pthread_cond_broadcast(&applier->changed);
        pthread_mutex_unlock(&applier->mutex);
    }
    return walked > begun;
}

/* ---- flushing --------------------------------------------------------------------------------------------------- */

int jdr_applier_sync(const jdr_applier *applier, struct jdr_primary *primary)
{
    int result = jdr_primary_sync(primary);
    if (result)
        jdr_ring_note_primary_failure(applier->ring, primary->disk);
    return result;
}

/* Flush the primaries. They then have, durably, all that they were given, and the log may forget it. */
static void sync_primaries(jdr_applier *applier)
{
    struct jdr_pending_flush flush = jdr_pending_flush_begin(applier->ring);
    pthread_mutex_lock(&applier->mutex);
    for (size_t i = 0; i < applier->primary_count; i++) {
        int64_t begun = begin_work(applier, applier->primaries[i]);
        jdr_applier_sync(applier, applier->primaries[i]);
        jdr_pace_flushed(&applier->primaries[i]->pace, end_work(applier, begun));
    }
    pthread_mutex_unlock(&applier->mutex);
    jdr_pending_flush_end(applier->ring, flush);
    applier->synced_ns = jdr_monotonic_ns();
}

static bool sync_is_due(const jdr_applier *applier)
{
    return jdr_pending_flush_due(applier->ring) &&
           (atomic_load(&applier->paced) || jdr_monotonic_ns() - applier->synced_ns >= SYNC_NS);
}

/* ---- pace ------------------------------------------------------------------------------------------------------- */

/* It does not move while the applier waits for the log, or for one primary. */
static uint64_t progress(const jdr_ring *ring)
{
    return jdr_pending_lsn_applied(ring) + jdr_ring_lsn_in_primaries(ring);
}

static void wait_for_pace(const jdr_applier *applier, struct jdr_primary *primary, uint64_t weight, int64_t limit_ns)
{
    const jdr_ring *ring = applier->ring;
    struct jdr_pace *pace = &primary->pace;
    uint64_t last = progress(ring);
    int64_t deadline = jdr_monotonic_ns() + limit_ns;
    for (;;) {
        uint32_t seen = atomic_load(&pace->moved);
        uint64_t now = progress(ring);
        bool own = atomic_load(&applier->works_on) == primary;
        if (!jdr_ring_logging(ring) || !jdr_pace_exceeds(pace, weight) || (!own && now == pace->stuck_at))
            return;
        if (own || now != last)
            deadline = jdr_monotonic_ns() + limit_ns;
        else if (jdr_monotonic_ns() >= deadline)
            atomic_store(&pace->stuck_at, now);
        last = now;
        jdr_futex_wait(&pace->moved, seen, REST_NS);
    }
}

void jdr_applier_pace(jdr_applier *applier, struct jdr_primary *primary, uint64_t weight, int64_t limit_ns)
{
    if (!jdr_pace_exceeds(&primary->pace, weight))
        return;
    atomic_fetch_add(&applier->paced, 1);
    jdr_ring_request_durable(applier->ring, jdr_ring_lsn_reserved(applier->ring));
    wait_for_pace(applier, primary, weight, limit_ns);
    atomic_fetch_sub(&applier->paced, 1);
}

/* ---- logging is off --------------------------------------------------------------------------------------------- */

/* Has logging been off ever since `off`? */
static bool is_still(const jdr_applier *applier, const struct jdr_ring_off *off)
{
    struct jdr_ring_off now;
    jdr_ring_off(applier->ring, &now);
    return !off->logging && !now.logging && now.count == off->count;
}

/* Nothing has been pending since `off`. Allow writes to the primaries alone. */
static void settle(jdr_applier *applier, const struct jdr_ring_off *off)
{
    sync_primaries(applier);
    if (!is_still(applier, off) || jdr_bypassed_file_make(&applier->bypassed_file))
        return; /* tried again later: without the file a replay could destroy what is written now */
    if (jdr_ring_logging(applier->ring)) {
        /* Logging went on meanwhile, after a GAP_OPEN: the file of an earlier host was enough for the DRVA. */
        jdr_bypassed_file_remove(&applier->bypassed_file);
        return;
    }
    pthread_mutex_lock(&applier->mutex);
    for (size_t i = 0; i < applier->primary_count; i++)
        jdr_pace_settled(&applier->primaries[i]->pace);
    atomic_store(&applier->settled, off->count);
    pthread_cond_broadcast(&applier->changed);
    pthread_mutex_unlock(&applier->mutex);
}

bool jdr_applier_is_settled(const jdr_applier *applier)
{
    struct jdr_ring_off off;
    jdr_ring_off(applier->ring, &off);
    return !off.logging && atomic_load(&applier->settled) == off.count;
}

static void wait_changed(jdr_applier *applier)
{
    jdr_wait_until(&applier->changed, &applier->mutex, jdr_monotonic_ns() + SETTLE_POLL_NS);
}

bool jdr_applier_wait_settled(jdr_applier *applier)
{
    pthread_mutex_lock(&applier->mutex);
    while (!jdr_ring_logging(applier->ring) && !jdr_applier_is_settled(applier))
        wait_changed(applier);
    pthread_mutex_unlock(&applier->mutex);
    return !jdr_ring_logging(applier->ring);
}

void jdr_applier_wait_applied(jdr_applier *applier, uint64_t lsn)
{
    pthread_mutex_lock(&applier->mutex);
    while (jdr_pending_lsn_applied(applier->ring) < lsn && jdr_pending_any(applier->ring))
        wait_changed(applier);
    pthread_mutex_unlock(&applier->mutex);
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

/* There is nothing to apply. What is pending waits for a flush of the log, so ask for one if none has come. */
static void rest(jdr_applier *applier, uint32_t seen, bool again)
{
    jdr_ring *ring = applier->ring;
    if (again && jdr_pending_any(ring) && jdr_ring_logging(ring))
        jdr_ring_request_durable(ring, jdr_ring_lsn_reserved(ring));
    jdr_ring_wait_moved(ring, seen, REST_NS);
}

void jdr_applier_run(jdr_applier *applier)
{
    jdr_ring *ring = applier->ring;
    applier->synced_ns = jdr_monotonic_ns();
    for (bool again = false;; again = true) {
        bool stopping = atomic_load(&applier->stopping);
        uint32_t seen = jdr_ring_moved(ring);
        if (apply_some(applier)) {
            if (sync_is_due(applier)) /* however much there is to apply: the log is trimmed only after a flush */
                sync_primaries(applier);
            again = false;
            continue;
        }
        struct jdr_ring_off off;
        jdr_ring_off(ring, &off); /* before the look at what is pending: logging may go on and off in between */
        if (!off.logging && !jdr_applier_is_settled(applier) && !jdr_pending_any(ring))
            settle(applier, &off);
        if (jdr_ring_logging(ring))
            jdr_bypassed_file_clear(&applier->bypassed_file);
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
    jdr_ring_wake_moved(applier->ring);
}
