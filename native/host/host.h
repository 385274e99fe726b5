/*
 * host.h: the parts of the host component that know nothing of NBD: its disks (disks.c, primary.c), its control socket
 * (control_socket.c, commands.c, control_line.c), its log file (log_file.c), and its life (life.c). One process serves
 * one domain, so there is one of each. Every disk may have a dirty map (map.c).
 *
 * Functions return 0 or -errno. Those that take a `message` of HOST_MESSAGE bytes also say what was wrong with what.
 */
#ifndef JETDR_HOST_H
#define JETDR_HOST_H

#include <pthread.h>

#include "jetdr.h"

#define HOST_MESSAGE 512
#define HOST_NAME_MAX 64
#define HOST_PATH_MAX 4096
#define HOST_DISKS_MAX 500
#define HOST_DISK_BYTES_MAX (1ull << 50)

/* ---- disks ------------------------------------------------------------------------------------------------------ */

struct host_disk_spec {
    uint32_t number;
    uint64_t size_bytes;
    uint64_t record_bytes_max; /* 0: as much as the ring takes */
    char name[HOST_NAME_MAX + 1];
    char path[HOST_PATH_MAX];
};

/* What the DRVA knows of primary and log when a disk with a dirty map is added (jetdr_map.h). */
struct host_map_spec {
    enum jdr_map_start start;
    uint64_t section_id, timeline;
    struct jdr_generation earlier, generation;
    uint64_t log_lsn;
    int64_t log_time_ns;
};

/* What became of a map that was asked for: what jdr_dirty_map_begin found, or one of these. */
enum host_map_found {
    HOST_MAP_GOES_ON = 64, /* the disk was served already, with its map */
    HOST_MAP_ABSENT = 65,  /* it was served already, and has none */
};

struct host_map; /* of one disk */

/* Equal for two paths exactly if they reach the same bytes. Zeros: not known. */
struct host_file {
    uint64_t device, inode; /* of a block device its number, and 0 */
};

struct host_disk {
    struct host_disk_spec spec;
    jdr_filter *filter;
    bool zeroes_fast; /* makes zeros without writing them */
    bool knows_holes; /* its file system tells holes from data */
    bool write_back;  /* what was acknowledged may not be in the primary yet */
    /* disks.c's and primary.c's own */
    int state;
    unsigned references;
    pthread_rwlock_t fd_lock; /* guards fd, -1 once the primary is closed */
    int fd;
    struct host_file file; /* what the primary is */
    struct host_map *map;  /* NULL: none is kept */
    struct host_disk *next;
};

struct host_disks_options {
    jdr_ring *ring; /* NULL: unprotected */
    jdr_applier *applier;
    int64_t stall_limit_ns;
    uint8_t domain[16];
    const char *map_folder; /* NULL: a dirty map lies beside its disk */
};

/* Set before the first disk is added. */
void host_disks_configure(const struct host_disks_options *options);
/*
 * Open and lock the primary, and open its filter. Idempotent with the same values, or another path of the same file.
 * With a larger size the disk grows, if its primary has: guests see that when they connect again. -EEXIST with other
 * values.
 *
 * With `map` the disk gets a dirty map. That of a disk that is served already goes on with the log that `map` names,
 * and if nothing is known of the two (JDR_MAP_UNCERTAIN) all of it is owed a copy before. `found` says which.
 */
int host_disks_add(const struct host_disk_spec *spec, const struct host_map_spec *map, enum host_map_found *found,
                   char *message);
/* Refuse new I/O, wait for what is in flight, and close the primary: 0, or -ENOENT. */
int host_disks_remove(uint32_t number, char *message);
/* Log a range as background data. Returns what jdr_filter_copy returns. */
int64_t host_disks_copy(uint32_t number, uint64_t offset, uint64_t length, char *message);
/* The digest of a range. Returns what jdr_filter_digest returns. */
int64_t host_disks_digest(uint32_t number, uint64_t offset, uint64_t length, uint8_t *digest, char *message);
int host_disks_trust(uint32_t number, char *message);
/* What is owed a copy first from `offset` on. *length 0: nothing is. -EOPNOTSUPP without a map. */
int host_disks_owed(uint32_t number, uint64_t *offset, uint64_t *length, char *message);
/* Take one step of the clearing of the disk's dirty map now: jdr_filter_tend_map. */
int host_disks_tend(uint32_t number, char *message);
/* Wait until every write that is in flight now has ended: jdr_filter_settle. */
int host_disks_settle(uint32_t number, char *message);
/* Call `visit` with every disk that is served. No disk is added or removed meanwhile. Returns how many there are. */
unsigned host_disks_each(void (*visit)(void *context, struct host_disk *disk), void *context);
/* Let every disk refuse new I/O, and wait for what is in flight. */
void host_disks_close(void);
/* Flush all primaries, and end their dirty maps. True if each of them agrees with the log. */
bool host_disks_sync(void);
/* Free everything. No thread may be inside a call. */
void host_disks_destroy(void);

/*
 * The disk of that name, or NULL. An empty name stands for the only disk. The caller gives it back with
 * host_disk_release.
 */
struct host_disk *host_disk_take(const char *name);
void host_disk_release(struct host_disk *disk);
/* Does data begin at `offset`, and where does that data, or that hole, end? Returns 0, -ESHUTDOWN or -errno. */
int host_disk_extent(struct host_disk *disk, uint64_t offset, bool *data, uint64_t *end);
/* How many bytes the primary has now. 0: it is closed, or does not say. */
uint64_t host_disk_end(struct host_disk *disk);
int host_disk_read_ahead(struct host_disk *disk, uint64_t offset, uint64_t length);

/* ---- primaries -------------------------------------------------------------------------------------------------- */

/* What is at a path. May hang with its file system. */
struct host_file host_file_at(const char *path);
/* Open the disk's primary, lock it, and find out what it can do. */
int host_primary_open(struct host_disk *disk, char *message);
/* Find out what the open primary can do. May advance its time of change. */
void host_primary_find_abilities(struct host_disk *disk);
/* Say in `message` what is wrong. Returns -error. */
__attribute__((format(printf, 3, 4))) int host_refuse(int error, char *message, const char *format, ...);

/* ---- dirty maps ------------------------------------------------------------------------------------------------- */

/*
 * Begin the map of a disk whose primary is open, for its filter. It is kept in memory alone if the primary is no file,
 * or if its sidecar cannot be used.
 */
int host_map_begin(struct host_disk *disk, const struct host_disks_options *options, const struct host_map_spec *spec,
                   enum host_map_found *found, char *message);
jdr_dirty_map *host_map_native(const struct host_map *map);
/* The filter is open: clear from now on what can be cleared. */
int host_map_tend(struct host_disk *disk);
/* The filter is closed, and nobody writes to the primary. Idempotent. */
void host_map_end(struct host_map *map);
/* Free it, after its filter. */
void host_map_free(struct host_map *map);
/* Somebody is about to write to a primary without marking what is written: nobody may believe its map. */
void host_map_discard(const struct host_disk *disk, const struct host_disks_options *options);
/* Another log goes on with it. */
void host_map_go_on(struct host_disk *disk, const struct host_map_spec *spec);
/* Nothing is known any more of what log and disk have in common: all of the disk is owed a copy, durably. */
void host_map_doubt(struct host_disk *disk);
/* The disk has grown: its filter and its map have that size from now on. */
int host_map_grow(struct host_disk *disk, uint64_t size_bytes);
bool host_map_next_owed(struct host_map *map, uint64_t *offset, uint64_t *length);
/* How the map is. False while it grows. Waits for nothing. */
bool host_map_look(struct host_map *map, struct jdr_map_state *state);
/* One step of the clearing, out of turn. */
int host_map_tend_now(struct host_map *map);

/* ---- begin and end ---------------------------------------------------------------------------------------------- */

struct host_options {
    char *ring_path; /* NULL: nothing is protected */
    char *control_path, *bypassed_path, *map_folder;
    uint8_t domain[16];
    bool has_domain;
    int64_t stall_limit_ns;
    int64_t log_limit_bytes;      /* 0: standard error is not ours to cut */
    struct host_disk_spec *disks; /* served from the start */
    size_t disk_count;
};

/* Before a fork, begin what needs no ring. The options stay the caller's, and are used until host_free. */
int host_prepare(const struct host_options *options, char *message);
/* After the fork, begin the rest. `shut_down` makes the server end, which then calls host_finish. */
int host_begin(void (*shut_down)(void), char *message);
/* End in order: no control client or guest is served any more, the primaries are flushed, the ring is told. */
void host_finish(void);
/* No thread may be inside a call. */
void host_free(void);

/* ---- control socket --------------------------------------------------------------------------------------------- */

/*
 * Make the socket `path`. A socket that a dead host of this user left there is replaced, but nothing else is.
 * -EADDRINUSE if a live process has the socket.
 */
int host_control_listen(const char *path, char *message);
/* Serve the socket in threads. `quit` is called once, after a QUIT was answered. */
int host_control_start(void (*quit)(void), char *message);
/* Close all connections, wait for their commands, remove the socket. */
void host_control_stop(void);

/* ---- log file --------------------------------------------------------------------------------------------------- */

/* From now on a thread keeps the file on standard error below about `limit_bytes`. 0: no thread does. */
int host_log_start(int64_t limit_bytes, char *message);
/* Idempotent. */
void host_log_stop(void);

#endif
