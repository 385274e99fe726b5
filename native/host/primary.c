/*
 * primary.c: the file or block device under a disk. Opens and locks it, finds out what it can do, and has the two calls
 * that a filter lacks: extents and reading ahead.
 *
 * Invariant: outside the filter, its descriptor is used only under fd_lock.
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

#define PRIMARY_FLAGS (O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

int host_refuse(int error, char *message, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, HOST_MESSAGE, format, arguments);
    va_end(arguments);
    return -error;
}

/* ---- what it is ------------------------------------------------------------------------------------------------- */

static struct host_file file_of(const struct stat *status)
{
    if (S_ISBLK(status->st_mode))
        return (struct host_file){.device = status->st_rdev};
    return (struct host_file){.device = status->st_dev, .inode = status->st_ino};
}

struct host_file host_file_at(const char *path)
{
    struct stat status;
    return stat(path, &status) ? (struct host_file){0} : file_of(&status);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

/* Does the block device write zeroes by itself? */
static bool block_zeroes_fast(dev_t device)
{
    static const char *const places[] = {"queue", "../queue"}; /* of a disk, of a partition */
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

static bool punches_holes(int fd, uint64_t offset)
{
    int result;
    do
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, JDR_BLOCK);
    while (result && errno == EINTR);
    return result == 0;
}

/* The hole lies beyond the end of the file, so no data is changed, but some file systems note a time of change. */
void host_primary_find_abilities(struct host_disk *disk)
{
    struct stat status;
    if (fstat(disk->fd, &status))
        return;
    if (S_ISREG(status.st_mode))
        disk->zeroes_fast = punches_holes(disk->fd, ((uint64_t)status.st_size | 0xfffff) + 1);
    else
        disk->zeroes_fast = block_zeroes_fast(status.st_rdev);
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
    disk->file = file_of(&status);
    return 0;
}

/*
 * Replace the descriptor of a block device by one that is opened O_EXCL. The kernel then refuses mounts, arrays and
 * every other claim, by whatever node. The lock alone is per node.
 */
static int claim(struct host_disk *disk)
{
    struct stat status;
    if (fstat(disk->fd, &status) || !S_ISBLK(status.st_mode))
        return 0;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", disk->fd);
    int claimed = open(path, PRIMARY_FLAGS | O_EXCL);
    if (claimed < 0)
        return -errno;
    close(disk->fd);
    disk->fd = claimed;
    return 0;
}

/*
 * The owner of the folder could otherwise have any file of this machine served as the disk, by a symbolic link. So the
 * links of other users are not followed.
 */
static int open_path(struct host_disk *disk)
{
    struct stat status;
    bool is_link = lstat(disk->spec.path, &status) == 0 && S_ISLNK(status.st_mode);
    if (is_link && status.st_uid != 0 && status.st_uid != geteuid())
        return -ELOOP;
    disk->fd = open(disk->spec.path, PRIMARY_FLAGS | (is_link ? 0 : O_NOFOLLOW));
    return disk->fd < 0 ? -errno : claim(disk);
}

int host_primary_open(struct host_disk *disk, char *message)
{
    int result = open_path(disk);
    if (!result)
        return check_primary(disk, message);
    const char *why = strerrordesc_np(-result);
    if (result == -EBUSY)
        why = "it is in use; unmount it, or end the process or array that has claimed it";
    if (result == -ELOOP)
        why = "it is a symbolic link of another user, who decides where it leads; name the file itself";
    return host_refuse(-result, message, "%s: %s", disk->spec.path, why);
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
    uint64_t size = jdr_filter_size(disk->filter);
    *end = found < 0 || (uint64_t)found > size ? size : (uint64_t)found;
    return *end > offset ? 0 : -EIO;
}

int host_disk_extent(struct host_disk *disk, uint64_t offset, bool *data, uint64_t *end)
{
    pthread_rwlock_rdlock(&disk->fd_lock);
    int result = disk->fd < 0 ? -ESHUTDOWN : find_extent(disk, offset, data, end);
    pthread_rwlock_unlock(&disk->fd_lock);
    return result;
}

uint64_t host_disk_end(struct host_disk *disk)
{
    pthread_rwlock_rdlock(&disk->fd_lock);
    off_t end = disk->fd < 0 ? -1 : lseek(disk->fd, 0, SEEK_END);
    pthread_rwlock_unlock(&disk->fd_lock);
    return end < 0 ? 0 : (uint64_t)end;
}

int host_disk_read_ahead(struct host_disk *disk, uint64_t offset, uint64_t length)
{
    pthread_rwlock_rdlock(&disk->fd_lock);
    int result = disk->fd < 0 ? -ESHUTDOWN
                              : -posix_fadvise(disk->fd, (off_t)offset, (off_t)length, POSIX_FADV_WILLNEED);
    pthread_rwlock_unlock(&disk->fd_lock);
    return result;
}
