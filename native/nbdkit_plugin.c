/*
 * nbdkit_plugin.c: the host component as an nbdkit plugin. nbdkit does protocol, TLS and threads; this file turns its
 * calls into calls of the IO filter, and its parameters into a ring, disks and a control socket.
 *
 * Invariants: what nbdkit is told an export can do, it does; errors a guest sees are errors NBD knows; whatever ends the process
 * in order (QUIT, a signal) ends it once: filters closed, primaries flushed, then the ring told.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "host.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define QUIT_LIMIT_S 5
#define STALL_LIMIT_S_MAX 100


static struct {
    char *ring_path, *control_path, *marker_path;
    uint8_t domain[16];
    bool has_domain;
    int64_t stall_limit_ns;
    struct host_disk_spec *disks;
    size_t disk_count;
} parameters = {.stall_limit_ns = 2000000000};

static struct {
    jdr_ring *ring;
    jdr_applier *applier;
    pthread_t applier_thread;
    bool applying;
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t changed;
    bool ended, cleaning;
} host = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* ---- parameters --------------------------------------------------------------------------------------------------- */

static int set_path(char **target, const char *key, const char *value)
{
    if (*target) {
        nbdkit_error("%s= is given twice", key);
        return -1;
    }
    *target = nbdkit_absolute_path(value);
    return *target ? 0 : -1;
}

static int set_stall_limit(const char *value)
{
    char *end;
    double seconds = strtod(value, &end);
    if (end == value || *end || !(seconds >= 0 && seconds <= STALL_LIMIT_S_MAX)) {
        nbdkit_error("stall-limit=%s: use seconds, 0 to %d", value, STALL_LIMIT_S_MAX);
        return -1;
    }
    parameters.stall_limit_ns = (int64_t)(seconds * 1e9);
    return 0;
}

static int hex_digit(char digit)
{
    const char *digits = "0123456789abcdef", *found = digit ? strchr(digits, digit | 0x20) : NULL;
    return found ? (int)(found - digits) : -1;
}

/* 32 hexadecimal digits; hyphens between them do not matter. */
static int set_domain(const char *value)
{
    size_t count = 0;
    const char *next = value;
    for (; *next && count <= 32; next++) {
        int digit = hex_digit(*next);
        if (*next == '-')
            continue;
        if (digit < 0 || count == 32)
            break;
        parameters.domain[count / 2] = (uint8_t)(parameters.domain[count / 2] << 4 | digit);
        count++;
    }
    if (*next || count != 32) {
        nbdkit_error("domain=%s is not a UUID", value);
        return -1;
    }
    parameters.has_domain = true;
    return 0;
}

/* NUMBER:NAME:SIZE:PATH */
static int parse_disk(struct host_disk_spec *disk, const char *value)
{
    char number[16], size[32];
    int begin = 0;
    if (sscanf(value, "%15[0-9]:%64[^:]:%31[^:]:%n", number, disk->name, size, &begin) != 3 || !begin)
        return -1;
    char *path = nbdkit_absolute_path(value + begin);
    int64_t bytes = nbdkit_parse_size(size);
    bool fits = path && strlen(path) < sizeof disk->path;
    if (fits)
        strcpy(disk->path, path);
    free(path);
    disk->size_bytes = bytes > 0 ? (uint64_t)bytes : 0;
    return fits && bytes > 0 ? nbdkit_parse_uint32_t("disk number", number, &disk->number) : -1;
}

static int add_disk(const char *value)
{
    struct host_disk_spec disk = {0};
    if (parse_disk(&disk, value)) {
        nbdkit_error("disk=%s: use NUMBER:NAME:SIZE:PATH", value);
        return -1;
    }
    void *longer = realloc(parameters.disks, (parameters.disk_count + 1) * sizeof disk);
    if (!longer) {
        nbdkit_error("out of memory");
        return -1;
    }
    parameters.disks = longer;
    parameters.disks[parameters.disk_count++] = disk;
    return 0;
}

static int plugin_config(const char *key, const char *value)
{
    if (!strcmp(key, "ring"))
        return set_path(&parameters.ring_path, key, value);
    if (!strcmp(key, "control"))
        return set_path(&parameters.control_path, key, value);
    if (!strcmp(key, "write-back"))
        return set_path(&parameters.marker_path, key, value);
    if (!strcmp(key, "domain"))
        return set_domain(value);
    if (!strcmp(key, "stall-limit"))
        return set_stall_limit(value);
    if (!strcmp(key, "disk"))
        return add_disk(value);
    nbdkit_error("unknown parameter '%s'", key);
    return -1;
}

static int plugin_config_complete(void)
{
    if (!parameters.disk_count && !parameters.control_path) {
        nbdkit_error("nothing to serve: name a disk=, or a control= socket to add disks over");
        return -1;
    }
    if (parameters.marker_path && !parameters.ring_path) {
        nbdkit_error("write-back= needs a ring=");
        return -1;
    }
    return 0;
}

/* ---- begin and end ------------------------------------------------------------------------------------------------ */

static int attach_ring(void)
{
    int fd = open(parameters.ring_path, O_RDWR | O_CLOEXEC);
    int result = fd < 0 ? -errno : jdr_ring_open(&host.ring, fd, JDR_HOST, parameters.has_domain ? parameters.domain : NULL);
    if (fd >= 0)
        close(fd);
    const char *reason = result == -EBADMSG         ? "not a ring, or a damaged one"
                         : result == -EPROTONOSUPPORT ? "a ring of another version"
                         : result == -ESTALE          ? "the ring of another domain"
                         : result == -EBUSY           ? "another host component has it"
                         : result == -EACCES          ? "others than its owner may use it; it must have mode 0600"
                                                      : strerrordesc_np(-result);
    if (result)
        nbdkit_error("ring %s: %s", parameters.ring_path, reason);
    return result;
}

static int create_applier(void)
{
    bool wanted = host.ring && jdr_ring_write_back(host.ring);
    if (wanted != (parameters.marker_path != NULL)) {
        nbdkit_error("ring %s is %s: %s write-back=", parameters.ring_path, wanted ? "write-back" : "write-through", wanted ? "give" : "leave out");
        return -EINVAL;
    }
    int result = wanted ? jdr_applier_create(&host.applier, host.ring, parameters.marker_path) : 0;
    if (result)
        nbdkit_error("write-back: %s", strerrordesc_np(-result));
    return result;
}

static void *apply(void *context)
{
    jdr_applier_run(context);
    return NULL;
}

static int start_applier(void)
{
    int result = host.applier ? -pthread_create(&host.applier_thread, NULL, apply, host.applier) : 0;
    host.applying = host.applier && !result;
    if (result)
        nbdkit_error("write-back: %s", strerrordesc_np(-result));
    return result;
}

static int add_disks(void)
{
    char message[HOST_MESSAGE];
    for (size_t i = 0; i < parameters.disk_count; i++)
        if (host_disks_add(&parameters.disks[i], message)) {
            nbdkit_error("%s", message);
            return -1;
        }
    return 0;
}

/* Close the filters, flush the primaries, and only then say that this was an orderly end; once. */
static void end_host(void)
{
    pthread_mutex_lock(&host.mutex);
    bool first = !host.ended;
    host.ended = true;
    if (first) {
        host_disks_close();
        if (host.applying) {
            jdr_applier_stop(host.applier);
            pthread_join(host.applier_thread, NULL);
        }
        if (host_disks_sync() && host.ring)
            jdr_ring_end(host.ring);
    }
    pthread_mutex_unlock(&host.mutex);
}

/* In the control connection's thread. nbdkit waits for its clients, one of which may hang: not for ever. */
static void quit(void)
{
    struct timespec limit;
    end_host();
    nbdkit_shutdown();
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += QUIT_LIMIT_S;
    pthread_mutex_lock(&host.mutex);
    int result = 0;
    while (!result && !host.cleaning)
        result = pthread_cond_timedwait(&host.changed, &host.mutex, &limit);
    pthread_mutex_unlock(&host.mutex);
    if (result)
        _exit(EXIT_SUCCESS);
}

static int plugin_get_ready(void)
{
    char message[HOST_MESSAGE];
    if (parameters.ring_path)
        return 0; /* the ring knows its sides by their processes: it is attached behind the fork */
    host_disks_configure(&(struct host_disks_options){.stall_limit_ns = parameters.stall_limit_ns});
    if (add_disks())
        return -1;
    if (parameters.control_path && host_control_listen(parameters.control_path, message)) {
        nbdkit_error("%s", message);
        return -1;
    }
    return 0;
}

static int attach(void)
{
    if (attach_ring() || create_applier())
        return -1;
    host_disks_configure(&(struct host_disks_options){host.ring, host.applier, parameters.stall_limit_ns});
    return add_disks() || start_applier() ? -1 : 0;
}

static int plugin_after_fork(void)
{
    char message[HOST_MESSAGE];
    prctl(PR_SET_PDEATHSIG, 0); /* nbdkit may have asked to end with the process that started it, which guests outlive */
    if (parameters.ring_path && attach())
        return -1;
    if (parameters.control_path &&
        ((parameters.ring_path && host_control_listen(parameters.control_path, message)) || host_control_start(quit, message))) {
        nbdkit_error("%s", message);
        return -1;
    }
    return 0;
}

static void plugin_cleanup(void)
{
    pthread_mutex_lock(&host.mutex);
    host.cleaning = true;
    pthread_cond_broadcast(&host.changed);
    pthread_mutex_unlock(&host.mutex);
    host_control_stop();
    end_host();
}

static void plugin_unload(void)
{
    host_control_stop();
    host_disks_destroy();
    if (host.applier)
        jdr_applier_destroy(host.applier);
    if (host.ring)
        jdr_ring_destroy(host.ring);
    free(parameters.ring_path);
    free(parameters.control_path);
    free(parameters.marker_path);
    free(parameters.disks);
}

/* ---- exports ------------------------------------------------------------------------------------------------------ */

struct export_list {
    struct nbdkit_exports *exports;
    const char *first;
    int result;
};

static void list_disk(void *context, struct host_disk *disk)
{
    struct export_list *list = context;
    char description[64];
    snprintf(description, sizeof description, "disk %u", disk->spec.number);
    list->first = disk->spec.name;
    if (list->exports && !list->result)
        list->result = nbdkit_add_export(list->exports, disk->spec.name, description);
}

static int plugin_list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
    struct export_list list = {.exports = exports};
    host_disks_each(list_disk, &list);
    return list.result;
}

static const char *plugin_default_export(int readonly, int is_tls)
{
    struct host_disk *only = host_disk_take("");
    if (!only)
        return NULL;
    const char *name = nbdkit_strdup_intern(only->spec.name);
    host_disk_release(only);
    return name;
}

static const char *plugin_export_description(void *handle)
{
    const struct host_disk *disk = handle;
    return nbdkit_printf_intern("disk %u", disk->spec.number);
}

static void *plugin_open(int readonly)
{
    const char *name = nbdkit_export_name();
    struct host_disk *disk = name ? host_disk_take(name) : NULL;
    if (!disk) {
        nbdkit_error("there is no disk '%s' here; nbdinfo --list shows those that are", name ? name : "");
        nbdkit_set_error(ENOENT);
    }
    return disk;
}

static void plugin_close(void *handle)
{
    host_disk_release(handle);
}

static int64_t plugin_get_size(void *handle)
{
    return (int64_t)((struct host_disk *)handle)->spec.size_bytes;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    const struct host_disk *disk = handle;
    *minimum = JDR_SECTOR;
    *maximum = (uint32_t)disk->spec.write_bytes_max;
    *preferred = *maximum < JDR_BLOCK ? JDR_SECTOR : JDR_BLOCK;
    return 0;
}

static int plugin_yes(void *handle)
{
    return 1;
}

static int plugin_can_fua(void *handle)
{
    return NBDKIT_FUA_NATIVE;
}

static int plugin_can_cache(void *handle)
{
    return NBDKIT_CACHE_NATIVE;
}

/* A discard that had to write zeros would cost the guest more than it gains. */
static int plugin_can_trim(void *handle)
{
    return ((struct host_disk *)handle)->zeroes_fast;
}

static int plugin_can_fast_zero(void *handle)
{
    return ((struct host_disk *)handle)->zeroes_fast;
}

/* What waits to be written behind fills holes that the primary still has. */
static int plugin_can_extents(void *handle)
{
    const struct host_disk *disk = handle;
    return disk->knows_holes && !disk->write_back;
}

/* ---- requests ----------------------------------------------------------------------------------------------------- */

/* An errno that NBD has a number for. */
static int wire_errno(int error)
{
    switch (error) {
    case EDQUOT:
    case EFBIG:
        return ENOSPC;
    case EROFS:
        return EPERM;
    case EPERM:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOPNOTSUPP:
    case ESHUTDOWN:
        return error;
    default:
        return EIO;
    }
}

/* Report a negative result of the filter: -1. */
static int fail(const struct host_disk *disk, const char *what, uint64_t offset, uint64_t length, int64_t result)
{
    int error = -result > JDR_ERRNO_MAX && !(-result & JDR_PRIMARY) ? EIO : (int)(-result & JDR_ERRNO_MAX);
    const char *where = -result & JDR_PRIMARY ? "the primary failed: " : "";
    const char *reason = error == EINVAL && !*where     ? "offset and length must be multiples of 512 within the disk"
                         : error == ESHUTDOWN && !*where ? "the disk was removed"
                                                         : strerrordesc_np(error);
    nbdkit_error("disk %s: %s of %llu bytes at %llu: %s%s", disk->spec.name, what, (unsigned long long)length,
                 (unsigned long long)offset, where, reason);
    nbdkit_set_error(wire_errno(error));
    return -1;
}

static int plugin_pread(void *handle, void *target, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct host_disk *disk = handle;
    int result = jdr_filter_pread(disk->filter, target, count, offset);
    return result ? fail(disk, "read", offset, count, result) : 0;
}

static int plugin_flush(void *handle, uint32_t flags)
{
    struct host_disk *disk = handle;
    int64_t lsn = jdr_filter_flush(disk->filter);
    return lsn < 0 ? fail(disk, "flush", 0, disk->spec.size_bytes, lsn) : 0;
}

static int finish(struct host_disk *disk, uint32_t flags)
{
    return flags & NBDKIT_FLAG_FUA ? plugin_flush(disk, 0) : 0;
}

/* A client that asked for more than the longest write at once gets several. */
static int plugin_pwrite(void *handle, const void *data, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct host_disk *disk = handle;
    uint32_t piece_max = (uint32_t)disk->spec.write_bytes_max;
    if (count % JDR_SECTOR || offset % JDR_SECTOR)
        return fail(disk, "write", offset, count, -EINVAL);
    for (uint32_t done = 0; done < count;) {
        uint32_t piece = count - done < piece_max ? count - done : piece_max;
        int64_t lsn = jdr_filter_pwrite(disk->filter, (const char *)data + done, piece, offset + done);
        if (lsn < 0)
            return fail(disk, "write", offset + done, piece, lsn);
        done += piece;
    }
    return finish(disk, flags);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct host_disk *disk = handle;
    int64_t lsn = jdr_filter_zero(disk->filter, offset, count, true);
    return lsn < 0 ? fail(disk, "trim", offset, count, lsn) : finish(disk, flags);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct host_disk *disk = handle;
    if (flags & NBDKIT_FLAG_FAST_ZERO && !disk->zeroes_fast) {
        nbdkit_set_error(EOPNOTSUPP);
        return -1;
    }
    int64_t lsn = host_disk_zero(disk, offset, count, !(flags & NBDKIT_FLAG_MAY_TRIM));
    return lsn < 0 ? fail(disk, "zero", offset, count, lsn) : finish(disk, flags);
}

static int plugin_cache(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct host_disk *disk = handle;
    int result = host_disk_read_ahead(disk, offset, count);
    return result ? fail(disk, "cache", offset, count, result) : 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents)
{
    struct host_disk *disk = handle;
    for (uint64_t at = offset, end; at < offset + count; at = end) {
        bool data;
        int result = host_disk_extent(disk, at, &data, &end);
        if (result)
            return fail(disk, "extents", offset, count, result);
        if (nbdkit_add_extent(extents, at, end - at, data ? 0 : NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO))
            return -1;
        if (flags & NBDKIT_FLAG_REQ_ONE)
            break;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "jetdr",
    .longname = "jetdr host component",
    .description = "serves the disks of one protected domain; every write goes through the IO filter",
    .unload = plugin_unload,
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = "ring=PATH              the domain's ring; without it nothing is protected\n"
                   "control=PATH           socket over which disks are added and removed\n"
                   "domain=UUID            refuse the ring of another domain\n"
                   "stall-limit=SECONDS    a write waits no longer for replication (default 2.0)\n"
                   "write-back=PATH        the marker file of a write-back ring\n"
                   "disk=NUMBER:NAME:SIZE:PATH   a disk to serve from the start; may be repeated",
    .get_ready = plugin_get_ready,
    .after_fork = plugin_after_fork,
    .cleanup = plugin_cleanup,
    .list_exports = plugin_list_exports,
    .default_export = plugin_default_export,
    .export_description = plugin_export_description,
    .open = plugin_open,
    .close = plugin_close,
    .get_size = plugin_get_size,
    .block_size = plugin_block_size,
    .can_multi_conn = plugin_yes,
    .can_write = plugin_yes,
    .can_flush = plugin_yes,
    .can_zero = plugin_yes,
    .can_fua = plugin_can_fua,
    .can_cache = plugin_can_cache,
    .can_trim = plugin_can_trim,
    .can_fast_zero = plugin_can_fast_zero,
    .can_extents = plugin_can_extents,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
    .trim = plugin_trim,
    .zero = plugin_zero,
    .cache = plugin_cache,
    .extents = plugin_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)
