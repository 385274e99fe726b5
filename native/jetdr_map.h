/*
 * jetdr_map.h: the part of jetdr.h that is about dirty maps. Include jetdr.h.
 *
 * A dirty map says which regions of a disk may differ between primary and replica. It is kept in a sidecar, a small
 * file. An opening after a crash copies these regions, and not all of the disk. core/dirty_map.h says what a bit means.
 */
#ifndef JETDR_MAP_H
#define JETDR_MAP_H

#include <stdbool.h>
#include <stdint.h>

struct jdr_device;
typedef struct jdr_dirty_map jdr_dirty_map;

/* What a map is of. It says nothing of any other disk, domain or log. `disk` is whatever no other disk of the domain
 * has. */
struct jdr_map_identity {
    uint8_t domain[16], disk[16];
    uint64_t size_bytes, section_id;
    uint64_t timeline;
};

/* The claim that a log was last begun under. */
struct jdr_generation {
    uint64_t epoch;
    uint8_t nonce[16];
};

/* What primary and log are known to have in common when a map begins. */
enum jdr_map_start {
    JDR_MAP_AGREES = 0,   /* they agree: no region is owed a copy */
    JDR_MAP_MARKED = 1,   /* they agree but for the regions that the map of `earlier` has marked */
    JDR_MAP_UNCERTAIN = 2 /* nothing is known: all regions are owed a copy */
};

/* Why the map in the sidecar was not believed, and all regions are owed a copy. */
enum jdr_map_found {
    JDR_MAP_BELIEVED = 0,
    JDR_MAP_NONE = 1,
    JDR_MAP_DAMAGED = 2,
    JDR_MAP_NEWER = 3,     /* of a newer version */
    JDR_MAP_FOREIGN = 4,   /* another disk's */
    JDR_MAP_RESIZED = 5,   /* the disk had another size */
    JDR_MAP_OTHER_LOG = 6, /* kept with another log */
    JDR_MAP_STALE = 7,     /* not kept in the log's last generation */
    JDR_MAP_REPLACED = 8,  /* another file took the primary's place */
    JDR_MAP_CHANGED = 9,   /* the primary's file was changed after the map was last kept */
    JDR_MAP_OLDER = 10,    /* the log went on long after the map was last kept: the map is an older copy */
    JDR_MAP_LOG_OLDER = 11 /* bits were cleared for records that the log no longer has: the log is an older copy */
};

struct jdr_map_options {
    struct jdr_map_identity identity;
    struct jdr_generation earlier, generation; /* of the log's last use, and of the use that begins */
    enum jdr_map_start start;
    uint64_t log_lsn;    /* the last record that the log has */
    int64_t log_time_ns; /* and its time */
    int primary_fd;      /* of the primary's file, or -1: its inode and times are not compared */
};

struct jdr_map_state {
    uint64_t region_bytes, marked_bytes, owed_bytes;
    uint64_t intents;        /* batches of bits that were made durable */
    int failed;              /* errno. The map is not kept on disk any more: an unclean stop then costs a full copy */
    int64_t failed_since_ns; /* UTC */
};

/* How long the sidecar of a disk of that size is. */
uint64_t jdr_dirty_map_file_bytes(uint64_t size_bytes);
/*
 * Begin a map. `sidecar` has blocks of at most JDR_BLOCK bytes. Fails with -ENOMEM only: a sidecar that is NULL or
 * cannot be used makes a map that has failed, which is kept in memory alone.
 */
int jdr_dirty_map_begin(jdr_dirty_map **map, const struct jdr_device *sidecar, const struct jdr_map_options *options,
                        enum jdr_map_found *found);
/*
 * Another log, or the same one in another generation, goes on with what the map says. What the two do not have in
 * common was owed a copy before. Returns 0 or -errno.
 */
int jdr_dirty_map_go_on(jdr_dirty_map *map, uint64_t section_id, uint64_t timeline,
                        const struct jdr_generation *generation);
/*
 * Begin the map of a disk that has grown, with what the smaller one says. New regions are owed a copy if they have
 * data. Nobody writes to the disk meanwhile. Fails like jdr_dirty_map_begin.
 */
int jdr_dirty_map_grow(jdr_dirty_map **map, const struct jdr_device *sidecar, jdr_dirty_map *smaller,
                       uint64_t size_bytes);
/* Owe a range a copy, durably: primary and log may differ there for a reason that the filter does not know. */
void jdr_dirty_map_owe(jdr_dirty_map *map, uint64_t offset, uint64_t length);
/* Find what is owed first from `offset` on. False if nothing is. */
bool jdr_dirty_map_next_owed(const jdr_dirty_map *map, uint64_t offset, uint64_t *begin, uint64_t *length);
void jdr_dirty_map_state(jdr_dirty_map *map, struct jdr_map_state *state);
/* Nobody writes to the primary any more: note how its file is left. Marks stay. Returns 0 or -errno. */
int jdr_dirty_map_end(jdr_dirty_map *map);
/* The disk goes on without this map: make sure, as far as the sidecar can be written, that nobody believes it later. */
void jdr_dirty_map_give_up(jdr_dirty_map *map);
/* Free it, after its filter. */
void jdr_dirty_map_destroy(jdr_dirty_map *map);

#endif
