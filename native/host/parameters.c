/*
 * parameters.c: reads the plugin's parameters. If one is wrong, nbdkit names its key and value and does not start.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "parameters.h"

#define STALL_LIMIT_S_MAX 100 /* a hypervisor gives up a disk that has not answered for 120 s */
#define LOG_LIMIT_MIN (4 << 10)
#define LOG_LIMIT_MAX (1 << 30)

struct host_options nbdkit_parameters = {.stall_limit_ns = 2000000000};

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
    nbdkit_parameters.stall_limit_ns = (int64_t)(seconds * 1e9);
    return 0;
}

static int set_log_limit(const char *value)
{
    int64_t bytes = nbdkit_parse_size(value);
    if (bytes < LOG_LIMIT_MIN || bytes > LOG_LIMIT_MAX) {
        nbdkit_error("log-limit=%s: use bytes, %d to %d", value, LOG_LIMIT_MIN, LOG_LIMIT_MAX);
        return -1;
    }
    nbdkit_parameters.log_limit_bytes = bytes;
    return 0;
}

static int hex_digit(char digit)
{
    const char *digits = "0123456789abcdefABCDEF", *found = strchr(digits, digit);
    int place = found && *found ? (int)(found - digits) : -1;
    return place < 16 ? place : place - 6;
}

/* 32 hexadecimal digits, with or without hyphens between them. */
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
        nbdkit_parameters.domain[count / 2] = (uint8_t)(nbdkit_parameters.domain[count / 2] << 4 | digit);
        count++;
    }
    if (*next || count != 32) {
        nbdkit_error("domain=%s is not a UUID", value);
        return -1;
    }
    nbdkit_parameters.has_domain = true;
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
    void *longer = realloc(nbdkit_parameters.disks, (nbdkit_parameters.disk_count + 1) * sizeof disk);
    if (!longer) {
        nbdkit_error("out of memory");
        return -1;
    }
    nbdkit_parameters.disks = longer;
    nbdkit_parameters.disks[nbdkit_parameters.disk_count++] = disk;
    return 0;
}

int nbdkit_parameters_set(const char *key, const char *value)
{
    if (!strcmp(key, "ring"))
        return set_path(&nbdkit_parameters.ring_path, key, value);
    if (!strcmp(key, "control"))
        return set_path(&nbdkit_parameters.control_path, key, value);
    if (!strcmp(key, "write-back"))
        return set_path(&nbdkit_parameters.bypassed_path, key, value);
    if (!strcmp(key, "map-folder"))
        return set_path(&nbdkit_parameters.map_folder, key, value);
    if (!strcmp(key, "domain"))
        return set_domain(value);
    if (!strcmp(key, "stall-limit"))
        return set_stall_limit(value);
    if (!strcmp(key, "log-limit"))
        return set_log_limit(value);
    if (!strcmp(key, "disk"))
        return add_disk(value);
    nbdkit_error("unknown parameter '%s'", key);
    return -1;
}

int nbdkit_parameters_check(void)
{
    if (!nbdkit_parameters.disk_count && !nbdkit_parameters.control_path) {
        nbdkit_error("nothing to serve: name a disk=, or a control= socket to add disks over");
        return -1;
    }
    if (nbdkit_parameters.bypassed_path && !nbdkit_parameters.ring_path) {
        nbdkit_error("write-back= needs a ring=");
        return -1;
    }
    return 0;
}

void nbdkit_parameters_free(void)
{
    free(nbdkit_parameters.ring_path);
    free(nbdkit_parameters.control_path);
    free(nbdkit_parameters.bypassed_path);
    free(nbdkit_parameters.map_folder);
    free(nbdkit_parameters.disks);
}
