/*
 * host_disks.c: the disks that this host component serves, each a locked primary with its filter.
 *
 * Invariants: a disk in the table has its number, name and primary for itself; the table's mutex is never held during
 * I/O or while something is waited for, so that one primary that hangs stops nobody else; a disk is freed when it was removed
 * and nobody uses it; its descriptor is used only under fd_lock, or by its filter, which is closed before the
 * descriptor is.
 */
#include <fcntl.h>
#include <errno.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "host.h"
#include "ring_shared.h"

enum state { OPENING, SERVED, REMOVING, REMOVED };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards the table, and each disk's state and references */
static struct host_disk *table;
static bool closed; /* nothing is added any more */
static struct host_disks_options options;

static _Thread_local bool keep_allocated; /* of the zero that this thread is about to do */

void host_disks_configure(const struct host_disks_options *given)
{
    options = *given;
}

__attribute__((format(printf, 3, 4))) static int refuse(int error, char *message, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, HOST_MESSAGE, format, arguments);
    va_end(arguments);
    return -error;
}

/* ---- the primary -------------------------------------------------------------------------------------------------- */

static int allocate(int fd, int mode, uint64_t offset, uint64_t length)
{
    int result;
    do
        result = fallocate(fd, mode, (off_t)offset, (off_t)length);
    while (result && errno == EINTR);
    return result ? -errno : 0;
}

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

/* Does the block device write zeroes by itself? */
static bool block_zeroes_fast(dev_t device)
{
    static const char *const places[] = {"queue", "../queue"}; /* of a disk; of a partition */
    unsigned long long bytes = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places && !bytes; i++) {
        char path[128];
        snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s/write_zeroes_max_bytes", major(device), minor(device), places[i]);
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
        disk->zeroes_fast = allocate(disk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, ((uint64_t)status->st_size | 0xfffff) + 1, JDR_BLOCK) == 0;
    else
        disk->zeroes_fast = block_zeroes_fast(status->st_rdev);
    disk->knows_holes = lseek(disk->fd, 0, SEEK_DATA) >= 0 || errno == ENXIO;
}

static int check_primary(struct host_disk *disk, char *message)
{
    const struct host_disk_spec *spec = &disk->spec;
    struct stat status;
    if (fstat(disk->fd, &status))
        return refuse(errno, message, "%s: %s", spec->path, strerrordesc_np(errno));
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return refuse(EINVAL, message, "%s is neither a regular file nor a block device", spec->path);
    if (flock(disk->fd, LOCK_EX | LOCK_NB))
        return refuse(errno == EWOULDBLOCK ? EBUSY : errno, message, "%s: %s", spec->path,
                      errno == EWOULDBLOCK ? "it is in use; stop the process that has it locked" : strerrordesc_np(errno));
    off_t end = lseek(disk->fd, 0, SEEK_END);
    if (end < 0 || (uint64_t)end < spec->size_bytes)
        return refuse(EINVAL, message, "%s has %lld bytes, fewer than the disk's %llu", spec->path, (long long)end,
                      (unsigned long long)spec->size_bytes);
    find_abilities(disk, &status);
    return 0;
}

static int open_primary(struct host_disk *disk, char *message)
{
    disk->fd = open(disk->spec.path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (disk->fd < 0)
        return refuse(errno, message, "%s: %s", disk->spec.path, strerrordesc_np(errno));
    return check_primary(disk, message);
}

static int open_filter(struct host_disk *disk, char *message)
{
    struct jdr_filter_options filter = {
        .ring = options.ring,
        .disk = disk->spec.number,
        .size_bytes = disk->spec.size_bytes,
        .write_bytes_max = disk->spec.write_bytes_max,
        .stall_limit_ns = options.stall_limit_ns,
        .bypass = options.ring != NULL,
        .applier = options.applier,
    };
    jdr_device_from_fd(&filter.primary, disk->fd, JDR_SECTOR);
    filter.primary.zero = primary_zero;
    disk->write_back = options.applier != NULL;
    int result = jdr_filter_open(&disk->filter, &filter);
    if (result)
        return refuse(-result, message, "disk %s: %s (size %llu, longest write %llu)", disk->spec.name, strerrordesc_np(-result),
                      (unsigned long long)disk->spec.size_bytes, (unsigned long long)disk->spec.write_bytes_max);
    return 0;
}

/* ---- the table ---------------------------------------------------------------------------------------------------- */

static bool valid_name(const char *name)
{
    static const char edge[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    size_t length = strlen(name), valid = strspn(name, edge);
    while (valid && valid < length && (strchr("._-", name[valid]) || strchr(edge, name[valid])))
        valid++;
    return length > 0 && length <= HOST_NAME_MAX && valid == length;
}

static int check_spec(const struct host_disk_spec *spec, char *message)
{
    if (!valid_name(spec->name))
        return refuse(EINVAL, message, "disk name '%.64s' is not valid: 1 to %d letters, digits, '.', '_' or '-'", spec->name, HOST_NAME_MAX);
    if (spec->path[0] != '/')
        return refuse(EINVAL, message, "disk %s: '%.200s' is not an absolute path", spec->name, spec->path);
    if (!spec->size_bytes || spec->size_bytes % JDR_SECTOR || spec->size_bytes > 1ull << 50)
        return refuse(EINVAL, message, "disk %s: %llu is not a disk's size", spec->name, (unsigned long long)spec->size_bytes);
    return 0;
}

static bool same_spec(const struct host_disk_spec *one, const struct host_disk_spec *other)
{
    return one->number == other->number && one->size_bytes == other->size_bytes && one->write_bytes_max == other->write_bytes_max &&
           !strcmp(one->name, other->name) && !strcmp(one->path, other->path);
}

/* With the mutex held: may the disk be entered? 1: it is served already. */
static int check_place(const struct host_disk_spec *spec, char *message)
{
    unsigned count = 0;
    if (closed)
        return refuse(ESHUTDOWN, message, "the host component is ending");
    for (const struct host_disk *disk = table; disk; disk = disk->next) {
        if (disk->state == REMOVED)
            continue;
        count++;
        if (disk->state == SERVED && same_spec(&disk->spec, spec))
            return 1;
        bool same_number = disk->spec.number == spec->number;
        if (!same_number && strcmp(disk->spec.name, spec->name))
            continue;
        if (disk->state != SERVED)
            return refuse(EBUSY, message, "disk %u (%s) is being added or removed", disk->spec.number, disk->spec.name);
        return refuse(EEXIST, message, "disk %u is %s (%llu bytes, longest write %llu, %.200s)", disk->spec.number, disk->spec.name,
                      (unsigned long long)disk->spec.size_bytes, (unsigned long long)disk->spec.write_bytes_max, disk->spec.path);
    }
    return count < HOST_DISKS_MAX ? 0 : refuse(ENOSPC, message, "there are %d disks already", HOST_DISKS_MAX);
}

/* With the mutex held. */
static struct host_disk *find(uint32_t number)
{
    for (struct host_disk *disk = table; disk; disk = disk->next)
        if (disk->state == SERVED && disk->spec.number == number)
            return disk;
    return NULL;
}

static void free_disk(struct host_disk *disk)
{
    jdr_filter_destroy(disk->filter);
    if (disk->fd >= 0)
        close(disk->fd);
    pthread_rwlock_destroy(&disk->fd_lock);
    free(disk);
}

static void unlink_disk(struct host_disk *disk)
{
    struct host_disk **link = &table;
    while (*link != disk)
        link = &(*link)->next;
    *link = disk->next;
}

/* With the mutex held: enter a disk that is being opened. */
static int enter(const struct host_disk_spec *spec, struct host_disk **out, char *message)
{
    int result = check_place(spec, message);
    if (result)
        return result;
    struct host_disk *disk = calloc(1, sizeof *disk);
    if (!disk)
        return refuse(ENOMEM, message, "disk %s: out of memory", spec->name);
    disk->spec = *spec;
    disk->state = OPENING;
    disk->references = 1; /* the table's */
    disk->fd = -1;
    pthread_rwlock_init(&disk->fd_lock, NULL);
    struct host_disk **end = &table;
    while (*end)
        end = &(*end)->next;
    *out = *end = disk;
    return 0;
}

int host_disks_add(const struct host_disk_spec *given, char *message)
{
    struct host_disk_spec spec = *given;
    if (!spec.write_bytes_max)
        spec.write_bytes_max = options.ring ? jdr_ring_record_bytes_max(options.ring) : JDR_RECORD_BYTES_MAX;
    int result = check_spec(&spec, message);
    if (result)
        return result;
    struct host_disk *disk = NULL;
    pthread_mutex_lock(&mutex);
    result = enter(&spec, &disk, message);
    pthread_mutex_unlock(&mutex);
    if (result)
        return result > 0 ? 0 : result;
    if ((result = open_primary(disk, message)) == 0)
        result = open_filter(disk, message);
    pthread_mutex_lock(&mutex);
    if (!result && closed)
        result = refuse(ESHUTDOWN, message, "the host component is ending");
    bool unused = result && !closed; /* once closed, the table stays as it is */
    disk->state = result ? REMOVED : SERVED;
    if (unused)
        unlink_disk(disk);
    pthread_mutex_unlock(&mutex);
    if (unused)
        free_disk(disk);
    return result;
}

static void close_primary(struct host_disk *disk)
{
    pthread_rwlock_wrlock(&disk->fd_lock);
    if (disk->fd >= 0)
        close(disk->fd);
    disk->fd = -1;
    pthread_rwlock_unlock(&disk->fd_lock);
}

static int take_number(uint32_t number, int state_next, struct host_disk **out, char *message)
{
    pthread_mutex_lock(&mutex);
    struct host_disk *disk = closed ? NULL : find(number);
    int result = closed ? -ESHUTDOWN : disk ? 0 : -ENOENT;
    if (disk) {
        disk->references++;
        disk->state = state_next;
    }
    pthread_mutex_unlock(&mutex);
    *out = disk;
    return result ? refuse(-result, message, result == -ENOENT ? "there is no disk %u" : "disk %u: the host component is ending", number) : 0;
}

int host_disks_remove(uint32_t number, char *message)
{
    struct host_disk *disk;
    int result = take_number(number, REMOVING, &disk, message);
    if (result)
        return result;
    jdr_filter_close(disk->filter);
    if (options.applier) /* its clients may keep the filter; the disk's next one is another's */
        jdr_applier_remove(options.applier, disk->filter);
    close_primary(disk);
    pthread_mutex_lock(&mutex);
    disk->state = REMOVED;
    disk->references--; /* the table's */
    pthread_mutex_unlock(&mutex);
    host_disk_release(disk);
    return 0;
}

int64_t host_disks_copy(uint32_t number, uint64_t offset, uint64_t length, char *message)
{
    struct host_disk *disk;
    int64_t result = take_number(number, SERVED, &disk, message);
    if (result)
        return result;
    result = jdr_filter_copy(disk->filter, offset, length);
    if (result < 0)
        snprintf(message, HOST_MESSAGE, "disk %s: copy of %llu bytes at %llu", disk->spec.name, (unsigned long long)length,
                 (unsigned long long)offset);
    host_disk_release(disk);
    return result;
}

int host_disks_trust(uint32_t number, char *message)
{
    struct host_disk *disk;
    int result = take_number(number, SERVED, &disk, message);
    if (result)
        return result;
    jdr_filter_trust(disk->filter);
    host_disk_release(disk);
    return 0;
}

unsigned host_disks_each(void (*visit)(void *context, struct host_disk *disk), void *context)
{
    unsigned count = 0;
    pthread_mutex_lock(&mutex);
    for (struct host_disk *disk = table; disk; disk = disk->next)
        if (disk->state == SERVED) {
            visit(context, disk);
            count++;
        }
    pthread_mutex_unlock(&mutex);
    return count;
}

/* ---- the end ------------------------------------------------------------------------------------------------------ */

static bool is_served(const struct host_disk *disk)
{
    pthread_mutex_lock(&mutex);
    bool served = disk->state == SERVED;
    pthread_mutex_unlock(&mutex);
    return served;
}

/* Once `closed` is set, no disk is entered, removed or freed. */
void host_disks_close(void)
{
    pthread_mutex_lock(&mutex);
    closed = true;
    for (struct host_disk *disk = table; disk; disk = disk->next)
        disk->references++;
    struct host_disk *first = table;
    pthread_mutex_unlock(&mutex);
    for (struct host_disk *disk = first; disk; disk = disk->next)
        if (is_served(disk))
            jdr_filter_close(disk->filter);
}

bool host_disks_sync(void)
{
    bool agree = true;
    for (struct host_disk *disk = table; disk; disk = disk->next) {
        struct jdr_filter_stats stats = {0};
        if (!is_served(disk))
            continue;
        jdr_filter_stats(disk->filter, &stats);
        agree &= fdatasync(disk->fd) == 0 && !stats.suspect && !stats.sync_failed;
    }
    return agree;
}

void host_disks_destroy(void)
{
    while (table) {
        struct host_disk *disk = table;
        table = disk->next;
        free_disk(disk);
    }
}

/* ---- one disk, as its clients see it ------------------------------------------------------------------------------ */

struct host_disk *host_disk_take(const char *name)
{
    struct host_disk *found = NULL;
    unsigned served = 0;
    pthread_mutex_lock(&mutex);
    for (struct host_disk *disk = table; disk; disk = disk->next)
        if (disk->state == SERVED) {
            served++;
            if (!*name || !strcmp(disk->spec.name, name))
                found = disk;
        }
    if (found && !*name && served > 1)
        found = NULL;
    if (found)
        found->references++;
    pthread_mutex_unlock(&mutex);
    return found;
}

void host_disk_release(struct host_disk *disk)
{
    pthread_mutex_lock(&mutex);
    bool unused = --disk->references == 0;
    if (unused)
        unlink_disk(disk);
    pthread_mutex_unlock(&mutex);
    if (unused)
        free_disk(disk);
}

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
    int result = disk->fd < 0 ? -ESHUTDOWN : -posix_fadvise(disk->fd, (off_t)offset, (off_t)length, POSIX_FADV_WILLNEED);
    pthread_rwlock_unlock(&disk->fd_lock);
    return result;
}

int64_t host_disk_zero(struct host_disk *disk, uint64_t offset, uint64_t length, bool keep)
{
    keep_allocated = keep;
    int64_t result = jdr_filter_zero(disk->filter, offset, length, false);
    keep_allocated = false;
    return result;
}
