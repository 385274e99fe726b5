/* primary.c: see primary.h. */
#include <errno.h>
#include <unistd.h>

#include "primary.h"

void jdr_primary_init(struct jdr_primary *primary, const struct jdr_device *device, uint32_t disk, uint64_t size_bytes)
{
    primary->device = *device;
    primary->disk = disk;
    primary->size_bytes = size_bytes;
    jdr_ranges_init(&primary->ranges);
    jdr_pace_init(&primary->pace);
    pthread_mutex_init(&primary->mutex, NULL);
}

void jdr_primary_destroy(struct jdr_primary *primary)
{
    jdr_ranges_destroy(&primary->ranges);
    pthread_mutex_destroy(&primary->mutex);
}

int jdr_primary_error(int result)
{
    return -(JDR_PRIMARY | (result < 0 && result >= -JDR_ERRNO_MAX ? -result : EIO));
}

int jdr_primary_read(const struct jdr_primary *primary, uint64_t offset, void *target, size_t length)
{
    int result = primary->device.read(&primary->device, offset, target, length);
    return result ? jdr_primary_error(result) : 0;
}

/* ---- how it answers --------------------------------------------------------------------------------------------- */

static int64_t wall_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static bool is_calm(const struct jdr_trouble *trouble)
{
    return !trouble->error || (trouble->right_since && jdr_monotonic_ns() - trouble->last_ns >= JDR_CALM_NS);
}

void jdr_primary_note(struct jdr_primary *primary, enum jdr_answer answer, int64_t result)
{
    struct jdr_trouble *trouble = &primary->troubles[answer];
    if (result >= 0) {
        trouble->right_since = trouble->error != 0;
        return;
    }
    if (!(-result & JDR_PRIMARY))
        return;
    if (is_calm(trouble))
        trouble->since_ns = wall_ns();
    trouble->error = (int)(-result & JDR_ERRNO_MAX);
    trouble->right_since = false;
    trouble->last_ns = jdr_monotonic_ns();
}

static void note_now(struct jdr_primary *primary, enum jdr_answer answer, int64_t result)
{
    pthread_mutex_lock(&primary->ranges.mutex);
    jdr_primary_note(primary, answer, result);
    pthread_mutex_unlock(&primary->ranges.mutex);
}

const struct jdr_trouble *jdr_primary_trouble(const struct jdr_primary *primary)
{
    for (int answer = 0; answer < JDR_ANSWERS; answer++)
        if (!is_calm(&primary->troubles[answer]))
            return &primary->troubles[answer];
    return NULL;
}

/* ---- room ------------------------------------------------------------------------------------------------------- */

#define ROOM_POLL_NS 50000000l

int jdr_primary_change_within(struct jdr_primary *primary, const struct jdr_change *change, int64_t limit_ns)
{
    int result = jdr_primary_change(primary, change);
    if (!jdr_primary_is_full(result))
        return result;
    note_now(primary, JDR_ANSWER_CHANGE, result);
    for (int64_t deadline = jdr_monotonic_ns() + limit_ns; jdr_primary_is_full(result) && jdr_monotonic_ns() < deadline;
         result = jdr_primary_change(primary, change))
        jdr_sleep(ROOM_POLL_NS);
    return result;
}

int jdr_primary_wait_for_room(const struct jdr_primary *primary, int64_t limit_ns)
{
    int64_t deadline = jdr_monotonic_ns() + limit_ns;
    while (atomic_load(&primary->full)) {
        if (jdr_monotonic_ns() >= deadline)
            return jdr_primary_error(-ENOSPC);
        jdr_sleep(ROOM_POLL_NS);
    }
    return 0;
}

/* ---- flushes and losses ----------------------------------------------------------------------------------------- */

/* With the mutex held: the flush itself. */
static void sync_device(struct jdr_primary *primary)
{
    atomic_fetch_add(&primary->syncs_begun, 1);
    int result = primary->device.sync(&primary->device);
    if (!result)
        return;
    primary->failed = jdr_primary_error(result);
    if (primary->map)
        jdr_dirty_map_owe_marked(primary->map);
}

int jdr_primary_sync(struct jdr_primary *primary)
{
    uint64_t direct = atomic_load(&primary->direct), seen = atomic_load(&primary->syncs_begun);
    jdr_lock_until(&primary->mutex, INT64_MAX); /* the owner waits for the device */
    if (!primary->failed && atomic_load(&primary->syncs_begun) == seen)
        sync_device(primary);
    int result = primary->failed;
    if (!result && primary->direct_synced < direct)
        primary->direct_synced = direct;
    pthread_mutex_unlock(&primary->mutex);
    if (result)
        note_now(primary, JDR_ANSWER_FLUSH, result);
    return result;
}

void jdr_primary_lose(struct jdr_primary *primary, int error)
{
    jdr_lock_until(&primary->mutex, INT64_MAX);
    if (!primary->failed)
        primary->failed = error;
    pthread_mutex_unlock(&primary->mutex);
    pthread_mutex_lock(&primary->ranges.mutex);
    primary->lost++;
    jdr_primary_note(primary, JDR_ANSWER_FLUSH, error);
    pthread_mutex_unlock(&primary->ranges.mutex);
}

bool jdr_primary_is_hole(const struct jdr_primary *primary, uint64_t offset, uint64_t length)
{
    if (primary->device.fd < 0)
        return false;
    off_t data = lseek(primary->device.fd, (off_t)offset, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + length;
}
