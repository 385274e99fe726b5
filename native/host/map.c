/*
 * map.c: the dirty map of one disk in the host component: its sidecar, and the thread that clears it.
 *
 * Invariants: a map that begins without an earlier one gets a file of its own. What is at the sidecar's place is
 * believed only if an earlier run of this user made it. A sidecar that cannot be had costs nobody anything but a copy
 * of the whole disk after the next unclean stop. Nothing shows that a block device is the one that it was, or that
 * nobody else has written to it, so its map is kept in memory alone. Each disk has a thread of its own, because the
 * flush of a primary may hang.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host.h"

#define TEND_S 5
#define SIDECAR_FLAGS (O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)

struct host_map {
    char place[HOST_PATH_MAX + 64];
    int fd;                  /* of the sidecar, or -1 */
    int error;               /* why there is none */
    pthread_mutex_t growing; /* held by who makes the disk grow, from the end of one thread to the begin of the next */
    pthread_rwlock_t lock;   /* guards `native`, which another one replaces when the disk grows */
    jdr_dirty_map *native;
    jdr_filter *filter;
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t changed;
    bool tending, stopping, ended;
    pthread_t tender;
};

/* ---- the sidecar ------------------------------------------------------------------------------------------------ */

static bool is_file(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

static void find_place(char *place, size_t size, const struct host_disk *disk, const struct host_disks_options *options)
{
    const uint8_t *id = options->domain;
    if (!options->map_folder)
        snprintf(place, size, "%s.jetdr-map", disk->spec.path);
    else
        snprintf(place, size, "%s/%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x-%u.jetdr-map",
                 options->map_folder, id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8], id[9], id[10],
                 id[11], id[12], id[13], id[14], id[15], disk->spec.number);
}

/* Open a file that an earlier run of this user made. -EPERM if somebody else made it, or can change it. */
static int open_own(const char *place)
{
    struct stat status;
    int fd = open(place, SIDECAR_FLAGS);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() && !(status.st_mode & 022))
        return fd;
    close(fd);
    return -EPERM;
}

static int sync_folder_of(const char *place)
{
    char path[HOST_PATH_MAX + 64];
    strcpy(path, place);
    int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return result;
}

/* Remove what an earlier run left. Durable at return. */
static int remove_own(const char *place)
{
    int fd = open_own(place);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    close(fd);
    return unlink(place) ? -errno : sync_folder_of(place);
}

/* Make a sidecar of zeros in place of an earlier one. Content and name are durable at return. */
static int make(const char *place, uint64_t length)
{
    int result = remove_own(place);
    int fd = result ? result : open(place, SIDECAR_FLAGS | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return result ? result : -errno;
    result = -posix_fallocate(fd, 0, (off_t)length);
    if (!result && fsync(fd))
        result = -errno;
    if (!result)
        result = sync_folder_of(place);
    if (!result)
        return fd;
    close(fd);
    unlink(place);
    return result;
}

/* Open what an earlier run left. One that has another name too is not, because that file would be written to. */
static int open_left(const char *place)
{
    struct stat status;
    int fd = open_own(place);
    if (fd < 0 || (fstat(fd, &status) == 0 && status.st_nlink == 1))
        return fd;
    close(fd);
    return -ENOENT;
}

static void open_sidecar(struct host_map *map, const struct host_disk *disk, enum jdr_map_start start)
{
    int fd = -ENODEV;
    if (is_file(disk->fd))
        fd = start == JDR_MAP_MARKED ? open_left(map->place) : -ENOENT;
    if (fd == -ENOENT)
        fd = make(map->place, jdr_dirty_map_file_bytes(disk->spec.size_bytes));
    map->fd = fd < 0 ? -1 : fd;
    map->error = fd < 0 ? -fd : 0;
}

void host_map_discard(const struct host_disk *disk, const struct host_disks_options *options)
{
    char place[HOST_PATH_MAX + 64];
    find_place(place, sizeof place, disk, options);
    if (is_file(disk->fd))
        remove_own(place);
}

/* ---- begin and end ---------------------------------------------------------------------------------------------- */

static struct jdr_device sidecar_of(const struct host_map *map)
{
    struct jdr_device device;
    jdr_device_from_fd(&device, map->fd, JDR_SECTOR);
    return device;
}

int host_map_begin(struct host_disk *disk, const struct host_disks_options *options, const struct host_map_spec *spec,
                   enum host_map_found *found, char *message)
{
    struct host_map *map = calloc(1, sizeof *map);
    if (!map)
        return host_refuse(ENOMEM, message, "disk %s: out of memory", disk->spec.name);
    find_place(map->place, sizeof map->place, disk, options);
    pthread_mutex_init(&map->growing, NULL);
    pthread_rwlock_init(&map->lock, NULL);
    pthread_mutex_init(&map->mutex, NULL);
    pthread_cond_init(&map->changed, NULL);
    open_sidecar(map, disk, spec->start);
    struct jdr_map_options begin = {
        .identity = {.size_bytes = disk->spec.size_bytes, .section_id = spec->section_id, .timeline = spec->timeline},
        .earlier = spec->earlier,
        .generation = spec->generation,
        .start = spec->start,
        .log_lsn = spec->log_lsn,
        .log_time_ns = spec->log_time_ns,
        .primary_fd = disk->fd,
    };
    memcpy(begin.identity.domain, options->domain, sizeof begin.identity.domain);
    memcpy(begin.identity.disk, &disk->spec.number, sizeof disk->spec.number);
    struct jdr_device sidecar = sidecar_of(map);
    enum jdr_map_found why;
    if (jdr_dirty_map_begin(&map->native, map->fd < 0 ? NULL : &sidecar, &begin, &why)) {
        host_map_free(map);
        return host_refuse(ENOMEM, message, "disk %s: out of memory", disk->spec.name);
    }
    *found = (enum host_map_found)why;
    disk->map = map;
    return 0;
}

jdr_dirty_map *host_map_native(const struct host_map *map)
{
    return map->native;
}

static void *tend(void *context)
{
    struct host_map *map = context;
    pthread_mutex_lock(&map->mutex);
    while (!map->stopping) {
        struct timespec next;
        clock_gettime(CLOCK_MONOTONIC, &next);
        next.tv_sec += TEND_S;
        if (pthread_cond_clockwait(&map->changed, &map->mutex, CLOCK_MONOTONIC, &next) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&map->mutex);
        jdr_filter_tend_map(map->filter); /* a primary that fails here switches logging off */
        pthread_mutex_lock(&map->mutex);
    }
    pthread_mutex_unlock(&map->mutex);
    return NULL;
}

int host_map_tend(struct host_disk *disk)
{
    struct host_map *map = disk->map;
    map->filter = disk->filter;
    map->stopping = false;
    int result = -pthread_create(&map->tender, NULL, tend, map);
    map->tending = !result;
    return result;
}

static void stop_tending(struct host_map *map)
{
    pthread_mutex_lock(&map->mutex);
    bool was_tending = map->tending;
    map->tending = false;
    map->stopping = true;
    pthread_cond_broadcast(&map->changed);
    pthread_mutex_unlock(&map->mutex);
    if (was_tending)
        pthread_join(map->tender, NULL);
}

void host_map_end(struct host_map *map)
{
    stop_tending(map);
    if (!map->ended)
        jdr_dirty_map_end(map->native);
    map->ended = true;
}

void host_map_free(struct host_map *map)
{
    if (!map)
        return;
    stop_tending(map);
    jdr_dirty_map_destroy(map->native);
    if (map->fd >= 0)
        close(map->fd);
    pthread_mutex_destroy(&map->growing);
    pthread_rwlock_destroy(&map->lock);
    pthread_mutex_destroy(&map->mutex);
    pthread_cond_destroy(&map->changed);
    free(map);
}

/* ---- while the disk is served ----------------------------------------------------------------------------------- */

void host_map_doubt(struct host_disk *disk)
{
    pthread_rwlock_rdlock(&disk->map->lock);
    jdr_dirty_map_owe(disk->map->native, 0, jdr_filter_size(disk->filter));
    pthread_rwlock_unlock(&disk->map->lock);
}

void host_map_go_on(struct host_disk *disk, const struct host_map_spec *spec)
{
    pthread_rwlock_rdlock(&disk->map->lock);
    if (spec->start == JDR_MAP_UNCERTAIN) /* durably, before a log goes on with the map that does not go on with ours */
        jdr_dirty_map_owe(disk->map->native, 0, jdr_filter_size(disk->filter));
    jdr_dirty_map_go_on(disk->map->native, spec->section_id, spec->timeline, &spec->generation);
    pthread_rwlock_unlock(&disk->map->lock);
}

/* While nobody clears. The sidecar of the smaller disk goes first: a crash in between leaves none, and all is copied.
 */
static int replace(struct host_disk *disk, uint64_t size_bytes)
{
    struct host_map *map = disk->map;
    pthread_rwlock_wrlock(&map->lock);
    jdr_dirty_map *smaller = map->native;
    int smaller_fd = map->fd;
    map->fd = smaller_fd < 0 ? -map->error : make(map->place, jdr_dirty_map_file_bytes(size_bytes));
    map->error = map->fd < 0 ? -map->fd : 0;
    struct jdr_device sidecar = sidecar_of(map);
    int result = jdr_filter_grow_map(disk->filter, size_bytes, map->fd < 0 ? NULL : &sidecar, &map->native);
    if (!result)
        jdr_dirty_map_destroy(smaller);
    int unused = result ? map->fd : smaller_fd;
    map->fd = result ? smaller_fd : map->fd;
    if (unused >= 0)
        close(unused);
    pthread_rwlock_unlock(&map->lock);
    return result;
}

/* A flush that hangs holds up the end of the thread that clears. So the next request may come before that. */
int host_map_grow(struct host_disk *disk, uint64_t size_bytes)
{
    int result = 0;
    pthread_mutex_lock(&disk->map->growing);
    if (jdr_filter_size(disk->filter) < size_bytes) {
        stop_tending(disk->map);
        result = replace(disk, size_bytes);
        host_map_tend(disk);
    }
    pthread_mutex_unlock(&disk->map->growing);
    return result;
}

bool host_map_next_owed(struct host_map *map, uint64_t *offset, uint64_t *length)
{
    pthread_rwlock_rdlock(&map->lock);
    bool owed = jdr_dirty_map_next_owed(map->native, *offset, offset, length);
    pthread_rwlock_unlock(&map->lock);
    return owed;
}

bool host_map_look(struct host_map *map, struct jdr_map_state *state)
{
    if (pthread_rwlock_tryrdlock(&map->lock))
        return false;
    jdr_dirty_map_state(map->native, state);
    if (map->error)
        state->failed = map->error;
    pthread_rwlock_unlock(&map->lock);
    return true;
}

int host_map_tend_now(struct host_map *map)
{
    pthread_rwlock_rdlock(&map->lock);
    int result = jdr_filter_tend_map(map->filter);
    pthread_rwlock_unlock(&map->lock);
    return result;
}
