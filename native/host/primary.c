/*
 * primary.c: the file or block device under a disk: opened, locked, asked what it can do, and what a filter has no
 * call for: extents, reading ahead, zeros that keep their space.
 *
 * Invariant: outside of the filter its descriptor is used under fd_lock only.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "host.h"

int host_refuse(int error, char *message, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, HOST_MESSAGE, format, arguments);
    va_end(arguments);
    return -error;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static int allocate(int fd, int mode, uint64_t offset, uint64_t length)
{
    int result;
    do
        result = fallocate(fd, mode, (off_t)offset, (off_t)length);
    while (result && errno == EINTR);
    return result ? -errno : 0;
}

/* Does the block device write zeroes by itself? */
static bool block_zeroes_fast(dev_t device)
{
    static const char *const places[] = {"queue", "../queue"}; /* of a disk; of a partition */
    unsigned long long bytes = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places && !bytes; i++) {
        char path[128];
        snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s/write_zeroes_max_bytes", major(device), minor(device),
                 places[i]);
        FILE *file = fopen(path, "re");
        if (file) {
            if (fscanf(file, "%llu", &bytes) != 1)
                bytes = 0;
            fclose(file);
        }
    }
    return bytes > 0;
}

/* What the primary can do. Nothing is changed: the hole lies behind the end of the file. */
static void find_abilities(struct host_disk *disk, const struct stat *status)
{
    if (S_ISREG(status->st_mode))
        disk->zeroes_fast = allocate(disk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     ((uint64_t)status->st_size | 0xfffff) + 1, JDR_BLOCK) == 0;
    else
        disk->zeroes_fast = block_zeroes_fast(status->st_rdev);
    disk->knows_holes = lseek(disk->fd, 0, SEEK_DATA) >= 0 || errno == ENXIO;
}

static int check_primary(struct host_disk *disk, char *message)
{
    const struct host_disk_spec *spec = &disk->spec;
    struct stat status;
    if (fstat(disk->fd, &status))
        return host_refuse(errno, message, "%s: %s", spec->path, strerrordesc_np(errno));
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return host_refuse(EINVAL, message, "%s is neither a regular file nor a block device", spec->path);
    if (flock(disk->fd, LOCK_EX | LOCK_NB))
        return host_refuse(errno == EWOULDBLOCK ? EBUSY : errno, message, "%s: %s", spec->path,
                           errno == EWOULDBLOCK ? "it is in use; stop the process that has it locked"
                                                : strerrordesc_np(errno));
    off_t end = lseek(disk->fd, 0, SEEK_END);
    if (end < 0 || (uint64_t)end < spec->size_bytes)
        return host_refuse(EINVAL, message, "%s has %lld bytes, fewer than the disk's %llu", spec->path, (long long)end,
                           (unsigned long long)spec->size_bytes);
    find_abilities(disk, &status);
    return 0;
}

int host_primary_open(struct host_disk *disk, char *message)
{
    disk->fd = open(disk->spec.path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (disk->fd < 0)
        return host_refuse(errno, message, "%s: %s", disk->spec.path, strerrordesc_np(errno));
    return check_primary(disk, message);
}

/* ---- zeros ------------------------------------------------------------------------------------------------------ */

static _Thread_local bool keep_allocated; /* of the zero that this thread is about to do */

static bool not_supported(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL || result == -ENODEV;
}

/* Zeros that keep their space: where the file system cannot do it in one step, a hole is made and filled. */
static int zero_allocated(const struct jdr_device *device, uint64_t offset, uint64_t length)
{
    int result = allocate(device->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
    if (!not_supported(result))
        return result;
    struct jdr_device plain;
    jdr_device_from_fd(&plain, device->fd, JDR_SECTOR);
    result = plain.zero(&plain, offset, length);
    if (!result)
        result = allocate(device->fd, 0, offset, length);
    return not_supported(result) ? 0 : result; /* zeros they are */
}

static int primary_zero(const struct jdr_device *device, uint64_t offset, uint64_t length)
{
    if (keep_allocated)
        return zero_allocated(device, offset, length);
    struct jdr_device plain;
    jdr_device_from_fd(&plain, device->fd, JDR_SECTOR);
    return plain.zero(&plain, offset, length);
}

void host_primary_device(int fd, struct jdr_device *device)
{
    jdr_device_from_fd(device, fd, JDR_SECTOR);
    device->zero = primary_zero;
}

int64_t host_disk_zero(struct host_disk *disk, uint64_t offset, uint64_t length, bool keep)
{
    keep_allocated = keep;
    int64_t result = jdr_filter_zero(disk->filter, offset, length, false);
    keep_allocated = false;
    return result;
}

/* ---- extents and reading ahead ---------------------------------------------------------------------------------- */

static int find_extent(const struct host_disk *disk, uint64_t offset, bool *data, uint64_t *end)
{
    off_t found = lseek(disk->fd, (off_t)offset, SEEK_DATA);
    if (found < 0 && errno != ENXIO)
        return -errno;
    *data = found == (off_t)offset;
    if (*data)
        found = lseek(disk->fd, (off_t)offset, SEEK_HOLE);
    *end = found < 0 || (uint64_t)found > disk->spec.size_bytes ? disk->spec.size_bytes : (uint64_t)found;
    return *end > offset ? 0 : -EIO;
}

int host_disk_extent(struct host_disk *disk, uint64_t offset, bool *data, uint64_t *end)
{
    pthread_rwlock_rdlock(&disk->fd_lock);
    int result = disk->fd < 0 ? -ESHUTDOWN : find_extent(disk, offset, data, end);
    pthread_rwlock_unlock(&disk->fd_lock);
    return result;
}

int host_disk_read_ahead(struct host_disk *disk, uint64_t offset, uint64_t length)
{
    pthread_rwlock_rdlock(&disk->fd_lock);
    int result = disk->fd < 0 ? -ESHUTDOWN
                              : -posix_fadvise(disk->fd, (off_t)offset, (off_t)length, POSIX_FADV_WILLNEED);
    pthread_rwlock_unlock(&disk->fd_lock);
    return result;
}
