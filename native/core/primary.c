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
    pthread_mutex_lock(&primary->mutex);
    if (!primary->failed && atomic_load(&primary->syncs_begun) == seen)
        sync_device(primary);
    int result = primary->failed;
    if (!result && primary->direct_synced < direct)
        primary->direct_synced = direct;
    pthread_mutex_unlock(&primary->mutex);
    return result;
}

void jdr_primary_lose(struct jdr_primary *primary, int error)
{
    pthread_mutex_lock(&primary->mutex);
    if (!primary->failed)
        primary->failed = error;
    pthread_mutex_unlock(&primary->mutex);
    pthread_mutex_lock(&primary->ranges.mutex);
    primary->lost++;
    pthread_mutex_unlock(&primary->ranges.mutex);
}

bool jdr_primary_is_hole(const struct jdr_primary *primary, uint64_t offset, uint64_t length)
{
    if (primary->device.fd < 0)
        return false;
    off_t data = lseek(primary->device.fd, (off_t)offset, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + length;
}
