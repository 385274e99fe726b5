/*
 * nbdkit_plugin.c: the host component as an nbdkit plugin. nbdkit has the protocol, TLS and the threads. This file
 * turns its calls into calls of the IO filter, and its parameters into a host (parameters.c, life.c).
 *
 * Invariants: an export can do what nbdkit is told that it can do. A guest sees only errors that NBD knows. A refused
 * request has changed nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "host.h"
#include "parameters.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define MESSAGES_MAX 100
#define MESSAGES_S 10

/* ---- begin and end ---------------------------------------------------------------------------------------------- */

static int told(int result, const char *message)
{
    if (result)
        nbdkit_error("%s", message);
    return result ? -1 : 0;
}

static int plugin_get_ready(void)
{
    char message[HOST_MESSAGE] = "";
    return told(host_prepare(&nbdkit_parameters, message), message);
}

static int plugin_after_fork(void)
{
    char message[HOST_MESSAGE] = "";
    prctl(PR_SET_PDEATHSIG, 0); /* nbdkit may have asked to end with the process that started it, but guests go on */
    return told(host_begin(nbdkit_shutdown, message), message);
}

static void plugin_unload(void)
{
    host_free();
    nbdkit_parameters_free();
}

/* ---- exports ---------------------------------------------------------------------------------------------------- */

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
    return (int64_t)jdr_filter_size(((struct host_disk *)handle)->filter);
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    const struct host_disk *disk = handle;
    *minimum = JDR_SECTOR;
    *maximum = (uint32_t)disk->spec.record_bytes_max;
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

/* A discard that has to write zeros costs a guest more than it gains. */
static int plugin_can_trim(void *handle)
{
    return ((struct host_disk *)handle)->zeroes_fast;
}

static int plugin_can_fast_zero(void *handle)
{
    return ((struct host_disk *)handle)->zeroes_fast;
}

/* What is pending in write-back fills holes that the primary still has. */
static int plugin_can_extents(void *handle)
{
    const struct host_disk *disk = handle;
    return disk->knows_holes && !disk->write_back;
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

/* Map an errno to one that NBD has a number for. */
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

/* A primary that fails every request must not fill the system's log, so there is a limit on messages per time. */
static bool worth_telling(void)
{
    static _Atomic int64_t window = INT64_MIN;
    static _Atomic unsigned count;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (atomic_exchange(&window, now.tv_sec / MESSAGES_S) != now.tv_sec / MESSAGES_S)
        atomic_store(&count, 0);
    unsigned before = atomic_fetch_add(&count, 1);
    if (before == MESSAGES_MAX)
        nbdkit_error("more requests failed; %d messages are told in %d s", MESSAGES_MAX, MESSAGES_S);
    return before < MESSAGES_MAX;
}

/* Report a negative result of the filter. Returns -1. */
static int fail(const struct host_disk *disk, const char *what, uint64_t offset, uint64_t length, int64_t result)
{
    int error = -result > JDR_ERRNO_MAX && !(-result & JDR_PRIMARY) ? EIO : (int)(-result & JDR_ERRNO_MAX);
    const char *where = -result & JDR_PRIMARY ? "the primary failed: " : "";
    const char *reason = error == EINVAL && !*where      ? "offset and length must be multiples of 512 within the disk"
                         : error == ESHUTDOWN && !*where ? "the disk was removed"
                                                         : strerrordesc_np(error);
    if (worth_telling())
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
    return lsn < 0 ? fail(disk, "flush", 0, jdr_filter_size(disk->filter), lsn) : 0;
}

static int finish(struct host_disk *disk, uint32_t flags)
{
    return flags & NBDKIT_FLAG_FUA ? plugin_flush(disk, 0) : 0;
}

static int plugin_pwrite(void *handle, const void *data, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct host_disk *disk = handle;
    int64_t lsn = jdr_filter_pwrite(disk->filter, data, count, offset);
    return lsn < 0 ? fail(disk, "write", offset, count, lsn) : finish(disk, flags);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct host_disk *disk = handle;
    int64_t lsn = jdr_filter_zero(disk->filter, offset, count, JDR_ZERO_DISCARDS);
    return lsn < 0 ? fail(disk, "trim", offset, count, lsn) : finish(disk, flags);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct host_disk *disk = handle;
    if (flags & NBDKIT_FLAG_FAST_ZERO && !disk->zeroes_fast) {
        nbdkit_set_error(EOPNOTSUPP);
        return -1;
    }
    enum jdr_zeroing zeroing = flags & NBDKIT_FLAG_MAY_TRIM ? JDR_ZERO_FREES_SPACE : JDR_ZERO_KEEPS_SPACE;
    int64_t lsn = jdr_filter_zero(disk->filter, offset, count, zeroing);
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
    .config = nbdkit_parameters_set,
    .config_complete = nbdkit_parameters_check,
    .config_help = NBDKIT_PARAMETERS_HELP,
    .get_ready = plugin_get_ready,
    .after_fork = plugin_after_fork,
    .cleanup = host_finish,
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
