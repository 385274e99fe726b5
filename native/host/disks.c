/*
 * disks.c: the disks that this host component serves, each a locked primary with its filter.
 *
 * Invariants: no two disks in the table share a number, a name or a primary. The mutex of the table is never held
 * during I/O or a wait, so a primary that hangs stops no other disk. A disk is freed after it was removed and its last
 * user is gone. Its descriptor is used under fd_lock or by its filter. The filter is closed before the descriptor.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"

enum state { OPENING, SERVED, REMOVING, REMOVED };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards the table, and each disk's state and references */
static pthread_cond_t removed = PTHREAD_COND_INITIALIZER;
static struct host_disk *table;
static bool closed; /* no disk is added any more */
static struct host_disks_options options;

void host_disks_configure(const struct host_disks_options *given)
{
    options = *given;
}

static int open_filter(struct host_disk *disk, char *message)
{
    struct jdr_filter_options filter = {
        .ring = options.ring,
        .disk = disk->spec.number,
        .size_bytes = disk->spec.size_bytes,
        .record_bytes_max = disk->spec.record_bytes_max,
        .stall_limit_ns = options.stall_limit_ns,
        .bypass = options.ring != NULL,
        .applier = options.applier,
        .map = disk->map ? host_map_native(disk->map) : NULL,
    };
    jdr_device_from_fd(&filter.primary, disk->fd, JDR_SECTOR);
    disk->write_back = options.applier != NULL;
    int result = jdr_filter_open(&disk->filter, &filter);
    if (result)
        return host_refuse(-result, message, "disk %s: %s (size %llu, longest write %llu)", disk->spec.name,
                           strerrordesc_np(-result), (unsigned long long)disk->spec.size_bytes,
                           (unsigned long long)disk->spec.record_bytes_max);
    if (disk->map && (result = host_map_tend(disk)))
        return host_refuse(-result, message, "disk %s: its dirty map: %s", disk->spec.name, strerrordesc_np(-result));
    return 0;
}

/* Open the primary, its dirty map, and the filter. */
static int open_disk(struct host_disk *disk, const struct host_map_spec *map, enum host_map_found *found, char *message)
{
    int result = host_primary_open(disk, message);
    if (result)
        return result;
    if (!map)
        host_map_discard(disk, &options);
    else if ((result = host_map_begin(disk, &options, map, found, message)))
        return result;
    host_primary_find_abilities(disk); /* the map has seen the time of change that the disk was left with */
    return open_filter(disk, message);
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

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
        return host_refuse(EINVAL, message, "disk name '%.64s' is not valid: 1 to %d letters, digits, '.', '_' or '-'",
                           spec->name, HOST_NAME_MAX);
    if (spec->path[0] != '/')
        return host_refuse(EINVAL, message, "disk %s: '%.200s' is not an absolute path", spec->name, spec->path);
    if (!spec->size_bytes || spec->size_bytes % JDR_SECTOR || spec->size_bytes > HOST_DISK_BYTES_MAX)
        return host_refuse(EINVAL, message, "disk %s: %llu is not a disk's size", spec->name,
                           (unsigned long long)spec->size_bytes);
    return 0;
}

static bool same_file(const struct host_file *one, const struct host_file *other)
{
    return (one->device || one->inode) && one->device == other->device && one->inode == other->inode;
}

/* Is the disk what is asked for? A renamed file is, and one that has grown. */
static bool same_disk(const struct host_disk *disk, const struct host_disk_spec *spec, const struct host_file *file)
{
    return disk->spec.number == spec->number && disk->spec.size_bytes <= spec->size_bytes &&
           disk->spec.record_bytes_max == spec->record_bytes_max && !strcmp(disk->spec.name, spec->name) &&
           (!strcmp(disk->spec.path, spec->path) || same_file(&disk->file, file));
}

/* With the mutex held: may the disk be entered? Returns 0, 1 if it is served already, or why not. */
static int check_place(const struct host_disk_spec *spec, const struct host_file *file, char *message)
{
    unsigned count = 0;
    if (closed)
        return host_refuse(ESHUTDOWN, message, "the host component is ending");
    for (struct host_disk *disk = table; disk; disk = disk->next) {
        if (disk->state == REMOVED)
            continue;
        count++;
        if (disk->state == SERVED && same_disk(disk, spec, file)) {
            strcpy(disk->spec.path, spec->path);
            return 1;
        }
        bool same_number = disk->spec.number == spec->number;
        if (!same_number && strcmp(disk->spec.name, spec->name))
            continue;
        if (disk->state != SERVED)
            return host_refuse(EBUSY, message, "disk %u (%s) is being added or removed", disk->spec.number,
                               disk->spec.name);
        return host_refuse(EEXIST, message, "disk %u is %s (%llu bytes, longest write %llu, %.200s)", disk->spec.number,
                           disk->spec.name, (unsigned long long)disk->spec.size_bytes,
                           (unsigned long long)disk->spec.record_bytes_max, disk->spec.path);
    }
    return count < HOST_DISKS_MAX ? 0 : host_refuse(ENOSPC, message, "there are %d disks already", HOST_DISKS_MAX);
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
    if (disk->map)
        host_map_end(disk->map); /* its thread uses the filter */
    jdr_filter_destroy(disk->filter);
    host_map_free(disk->map);
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
static int enter(const struct host_disk_spec *spec, const struct host_file *file, struct host_disk **out, char *message)
{
    int result = check_place(spec, file, message);
    if (result)
        return result;
    struct host_disk *disk = calloc(1, sizeof *disk);
    if (!disk)
        return host_refuse(ENOMEM, message, "disk %s: out of memory", spec->name);
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
    return result ? host_refuse(-result, message,
                                result == -ENOENT ? "there is no disk %u" : "disk %u: the host component is ending",
                                number)
                  : 0;
}

static int grow(struct host_disk *disk, uint64_t size_bytes, char *message)
{
    uint64_t end = host_disk_end(disk);
    if (end < size_bytes)
        return host_refuse(EINVAL, message, "disk %s: its primary has %llu bytes, fewer than %llu", disk->spec.name,
                           (unsigned long long)end, (unsigned long long)size_bytes);
    int result = disk->map ? host_map_grow(disk, size_bytes) : jdr_filter_grow(disk->filter, size_bytes);
    return result ? host_refuse(EEXIST, message, "disk %s has another size", disk->spec.name) : 0;
}

/*
 * The disk is served. Its size is the one that is asked for, or is to become that. Its map goes on. A DRVA that knows
 * nothing of maps tells none what log and disk have in common, so all of the disk is owed a copy.
 */
static int go_on_with(const struct host_disk_spec *spec, const struct host_map_spec *map, enum host_map_found *found,
                      char *message)
{
    struct host_disk *disk;
    int result = take_number(spec->number, SERVED, &disk, message);
    if (result)
        return result;
    if (jdr_filter_size(disk->filter) < spec->size_bytes)
        result = grow(disk, spec->size_bytes, message);
    pthread_mutex_lock(&mutex);
    if (!result)
        disk->spec.size_bytes = jdr_filter_size(disk->filter);
    pthread_mutex_unlock(&mutex);
    *found = disk->map ? HOST_MAP_GOES_ON : HOST_MAP_ABSENT;
    if (!result && disk->map) {
        if (map)
            host_map_go_on(disk, map);
        else
            host_map_doubt(disk);
    }
    host_disk_release(disk);
    return result;
}

int host_disks_add(const struct host_disk_spec *given, const struct host_map_spec *map, enum host_map_found *found,
                   char *message)
{
    struct host_disk_spec spec = *given;
    if (!spec.record_bytes_max)
        spec.record_bytes_max = options.ring ? jdr_ring_record_bytes_max(options.ring) : JDR_RECORD_BYTES_MAX;
    int result = check_spec(&spec, message);
    if (result)
        return result;
    struct host_disk *disk = NULL;
    struct host_file file = host_file_at(spec.path);
    pthread_mutex_lock(&mutex);
    result = enter(&spec, &file, &disk, message);
    pthread_mutex_unlock(&mutex);
    if (result)
        return result > 0 ? go_on_with(&spec, map, found, message) : result;
    result = open_disk(disk, map, found, message);
    pthread_mutex_lock(&mutex);
    if (!result && closed)
        result = host_refuse(ESHUTDOWN, message, "the host component is ending");
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

int host_disks_remove(uint32_t number, char *message)
{
    struct host_disk *disk;
    int result = take_number(number, REMOVING, &disk, message);
    if (result)
        return result;
    jdr_filter_close(disk->filter);
    if (disk->map)
        host_map_end(disk->map);
    close_primary(disk);
    pthread_mutex_lock(&mutex);
    disk->state = REMOVED;
    pthread_cond_broadcast(&removed);
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
        snprintf(message, HOST_MESSAGE, "disk %s: copy of %llu bytes at %llu", disk->spec.name,
                 (unsigned long long)length, (unsigned long long)offset);
    host_disk_release(disk);
    return result;
}

int64_t host_disks_digest(uint32_t number, uint64_t offset, uint64_t length, uint8_t *digest, char *message)
{
    struct host_disk *disk;
    int64_t result = take_number(number, SERVED, &disk, message);
    if (result)
        return result;
    result = jdr_filter_digest(disk->filter, offset, length, digest);
    if (result < 0)
        snprintf(message, HOST_MESSAGE, "disk %s: digest of %llu bytes at %llu", disk->spec.name,
                 (unsigned long long)length, (unsigned long long)offset);
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

int host_disks_owed(uint32_t number, uint64_t *offset, uint64_t *length, char *message)
{
    struct host_disk *disk;
    int result = take_number(number, SERVED, &disk, message);
    if (result)
        return result;
    *length = 0;
    if (!disk->map)
        result = host_refuse(EOPNOTSUPP, message, "disk %s has no dirty map", disk->spec.name);
    else if (!host_map_next_owed(disk->map, offset, length))
        *length = 0;
    host_disk_release(disk);
    return result;
}

int host_disks_tend(uint32_t number, char *message)
{
    struct host_disk *disk;
    int result = take_number(number, SERVED, &disk, message);
    if (result)
        return result;
    if (disk->map && host_map_tend_now(disk->map))
        result = host_refuse(EIO, message, "disk %s: the primary failed a flush", disk->spec.name);
    host_disk_release(disk);
    return result;
}

int host_disks_settle(uint32_t number, char *message)
{
    struct host_disk *disk;
    int result = take_number(number, SERVED, &disk, message);
    if (result)
        return result;
    result = jdr_filter_settle(disk->filter, options.stall_limit_ns);
    if (result)
        host_refuse(-result, message, "disk %s: writes are in flight", disk->spec.name);
    host_disk_release(disk);
    return result;
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

/* ---- the end ---------------------------------------------------------------------------------------------------- */

static bool is_served(const struct host_disk *disk)
{
    pthread_mutex_lock(&mutex);
    bool served = disk->state == SERVED;
    pthread_mutex_unlock(&mutex);
    return served;
}

/* With the mutex held. */
static bool is_any_being_removed(void)
{
    for (const struct host_disk *disk = table; disk; disk = disk->next)
        if (disk->state == REMOVING)
            return true;
    return false;
}

/* Once `closed` is set, no disk is entered, freed or removed. Those that are being removed still need the applier. */
void host_disks_close(void)
{
    pthread_mutex_lock(&mutex);
    closed = true;
    while (is_any_being_removed())
        pthread_cond_wait(&removed, &mutex);
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
        if (disk->map)
            host_map_end(disk->map);
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

/* ---- one disk, as its clients see it ---------------------------------------------------------------------------- */

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
