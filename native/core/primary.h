/*
 * primary.h: a disk's primary: its device, the ranges of it that are in flight, what it failed to keep, and whether it
 * answers rightly.
 *
 * Invariants: guests' calls and the applier change a primary through one function, jdr_primary_change, with the range
 * held. A device's errors have a band of their own (JDR_PRIMARY), so none is mistaken for one of the filter or the
 * ring. What a primary has failed to keep stays failed, because the kernel reports a loss once and then calls the next
 * flush a success.
 *
 * A primary without room (ENOSPC, EDQUOT) has not failed: room comes back. In write-through a guest's change waits for
 * room for the stall limit. Then the guest is told ENOSPC, on which a hypervisor pauses its machine. In write-back the
 * applier waits for as long as it takes, because the guest was told that the write is safe. Meanwhile the disk takes
 * nothing more, for the same limit and with the same answer.
 */
#ifndef JETDR_PRIMARY_H
#define JETDR_PRIMARY_H

#include <errno.h>

#include "dirty_map.h"
#include "jetdr.h"
#include "pace.h"
#include "ranges.h"

/* `length` bytes at `offset` become these pieces, or zeros. */
struct jdr_change {
    uint64_t offset, length;
    const struct iovec *pieces; /* one for a guest's write. NULL: zeros */
    int count;
    enum jdr_zeroing zeroing;
    bool is_in_log; /* durably: a replay makes primary and log equal, so no region need be marked */
};

/* The kinds of calls that a disk may answer wrongly, each by itself: a disk without room can be read. */
enum jdr_answer { JDR_ANSWER_FLUSH, JDR_ANSWER_CHANGE, JDR_ANSWER_READ, JDR_ANSWERS };

/* Whether calls of one kind are answered rightly. It is trouble from an error on until JDR_CALM_NS without one. */
struct jdr_trouble {
    int error;        /* errno of the last error. 0: none */
    bool right_since; /* a call was answered rightly since */
    int64_t since_ns; /* wall clock */
    int64_t last_ns;  /* of the last error, monotonic */
};

#define JDR_CALM_NS 3000000000ll

struct jdr_primary {
    struct jdr_device device;
    _Atomic uint64_t size_bytes; /* it only grows */
    uint32_t disk;
    _Atomic int failed; /* its first failed flush, or in write-back its first failed write that was acknowledged */
    struct jdr_ranges ranges;
    pthread_mutex_t mutex; /* guards `failed` and `direct_synced` */
    _Atomic uint64_t syncs_begun;
    _Atomic uint64_t direct, direct_synced;   /* changes that only the primary has, and how many of them are durable */
    uint64_t lost;                            /* acknowledged writes that it failed to take, under the ranges' mutex */
    struct jdr_pace pace;                     /* in write-back */
    struct jdr_trouble troubles[JDR_ANSWERS]; /* under the ranges' mutex */
    _Atomic bool full;                        /* in write-back: the applier waits for room */
    jdr_dirty_map *map;                       /* NULL: none is kept */
};

void jdr_primary_init(struct jdr_primary *primary, const struct jdr_device *device, uint32_t disk, uint64_t size_bytes);
void jdr_primary_destroy(struct jdr_primary *primary);

/* Is this a range of whole sectors within the disk? */
static inline bool jdr_primary_has(const struct jdr_primary *primary, uint64_t offset, uint64_t length)
{
    uint64_t size = primary->size_bytes;
    return offset % JDR_SECTOR == 0 && length % JDR_SECTOR == 0 && length > 0 && length <= size &&
           offset <= size - length;
}

int jdr_primary_read(const struct jdr_primary *primary, uint64_t offset, void *target, size_t length);
/* Turn a device's result, other than 0, into an error of the filter. */
int jdr_primary_error(int result);

/* Change a held range, after its regions were marked. There is no other way to change a primary. */
static inline int jdr_primary_change(struct jdr_primary *primary, const struct jdr_change *change)
{
    const struct jdr_device *device = &primary->device;
    if (primary->map && !change->is_in_log)
        jdr_dirty_map_touch(primary->map, change->offset, change->length);
    int result = change->pieces
                     ? device->write(device, change->offset, change->pieces, change->count)
                     : device->zero(device, change->offset, change->length, change->zeroing != JDR_ZERO_KEEPS_SPACE);
    return result ? jdr_primary_error(result) : 0;
}

/* A held range was changed, and the log will not say how: only a copy makes primary and log equal. */
static inline void jdr_primary_owe(struct jdr_primary *primary, const struct jdr_change *change)
{
    if (primary->map)
        jdr_dirty_map_owe(primary->map, change->offset, change->length);
}

/* Did a change, or its room, fail for want of room on the primary's file system? */
static inline bool jdr_primary_is_full(int result)
{
    return result < 0 && -result & JDR_PRIMARY &&
           ((-result & JDR_ERRNO_MAX) == ENOSPC || (-result & JDR_ERRNO_MAX) == EDQUOT);
}
/* The same change for a guest: without room it is tried again for `limit_ns`. */
int jdr_primary_change_within(struct jdr_primary *primary, const struct jdr_change *change, int64_t limit_ns);
/* Wait until the applier waits for room no longer. Returns 0, or the error for the guest after the limit. */
int jdr_primary_wait_for_room(const struct jdr_primary *primary, int64_t limit_ns);
/* Note, with the ranges' mutex held, how a call was answered. */
void jdr_primary_note(struct jdr_primary *primary, enum jdr_answer answer, int64_t result);
/* The worst present trouble, or NULL. With the ranges' mutex held. */
const struct jdr_trouble *jdr_primary_trouble(const struct jdr_primary *primary);

/* Flush. A call shares a flush that began after the call did. */
int jdr_primary_sync(struct jdr_primary *primary);
/* An acknowledged write cannot reach the primary. */
void jdr_primary_lose(struct jdr_primary *primary, int error);
/* Does its file system say that a range has no data? */
bool jdr_primary_is_hole(const struct jdr_primary *primary, uint64_t offset, uint64_t length);

#endif
