/*
 * filter.h: what the files of the IO filter share: the filter of one disk, its way of writing, the steps of a write.
 *
 * A write passes through these files in order:
 *   filter.c     checks the range, begins the call, and asks the mode
 *   throttle.c   delays it while the log is about to fill
 *   the mode     unprotected.c, write_through.c or write_back.c: the steps and their order
 *   room.c       takes room in the ring, then the range (with logging off, the range alone)
 *   primary.c    changes the primary
 *   record.c     logs the change
 *   filter.c     gives the range back, counts, ends the call
 *
 * Bypass: a guest never stops because of the log. Before a guest's call would fail for want of the log, or wait beyond
 * the stall limit, logging is switched off. Writes then bypass the log until the DRVA switches logging on again. A
 * write that finds logging off with its range held goes to the primary alone. The DRVA copies that range after it has
 * switched logging on, and so after the write.
 */
#ifndef JETDR_FILTER_H
#define JETDR_FILTER_H

#include "backpressure.h"
#include "jetdr.h"
#include "primary.h"

/* A way of writing: the steps of a call that has begun. */
struct jdr_mode {
    /*
     * Change the disk. Returns the LSN, 0 if the change was not logged, or an error. The range is held at return,
     * unless nothing was done.
     */
    int64_t (*change)(jdr_filter *filter, const struct jdr_change *change, struct jdr_range *range);
    int (*read)(jdr_filter *filter, uint64_t offset, void *target, size_t length);
    /* Make durable what was acknowledged before. Returns the last LSN, 0 without a ring, or an error. */
    int64_t (*flush)(jdr_filter *filter);
    /* No call is inside any more: finish what calls have left. NULL: they leave nothing. */
    void (*end)(jdr_filter *filter);
    /* Read the newest data of a held range. */
    int (*read_held)(jdr_filter *filter, uint64_t offset, void *target, size_t length);
    /* Is a held range all zeros, as far as the file system and the ring say? */
    bool (*is_hole)(const jdr_filter *filter, uint64_t offset, uint64_t length);
    /*
     * Logging is off: hold the range without room. False if logging is on again, or may be. The range is then not held.
     */
    bool (*hold_bypassing)(jdr_filter *filter, struct jdr_range *range);
    bool cuts; /* a write too long for one record becomes several, and is not refused */
};

extern const struct jdr_mode jdr_unprotected;
extern const struct jdr_mode jdr_write_through;           /* refuses what the log has no room for */
extern const struct jdr_mode jdr_write_through_or_bypass; /* never refuses: switches logging off instead */
extern const struct jdr_mode jdr_write_back;              /* likewise */

struct jdr_filter {
    const struct jdr_mode *mode;
    jdr_ring *ring;       /* NULL: unprotected */
    jdr_applier *applier; /* in write-back */
    uint64_t record_bytes_max;
    struct jdr_room share; /* of the ring, that this disk may have */
    int64_t stall_limit_ns;
    struct jdr_primary primary;
    JDR_LINE struct jdr_filter_stats stats; /* guarded by the ranges' mutex. Some are the primary's */
    struct jdr_backpressure backpressure;   /* likewise */
};

static inline uint64_t jdr_payload_bytes(const struct jdr_change *change)
{
    return change->pieces ? change->length : 0;
}

/* ---- throttle.c ------------------------------------------------------------------------------------------------- */

/* Delay a write, before it holds anything, if the DRVA says so. Returns for how long it waited. */
int64_t jdr_throttle(jdr_filter *filter, uint64_t payload_bytes);
/*
 * How long a guest's call that has waited for `waited_ns` may wait for the log: the rest of its stall limit, and with a
 * full log no longer than the disk's budget allows.
 */
int64_t jdr_patience(jdr_filter *filter, int64_t waited_ns);
/* A guest's call waited for ring or log, until now. With a full log that is paid for from the disk's budget. */
void jdr_throttle_waited(jdr_filter *filter, int64_t waited_ns);

/* ---- room.c ----------------------------------------------------------------------------------------------------- */

/*
 * Take room for a record with so much payload, then hold the range. Returns 0, or an error with neither done:
 * -ETIMEDOUT for no room within limit_ns, -EBUSY if this disk's share of the ring was taken all that time, -EMSGSIZE
 * for more than one record holds, -ECANCELED with logging off, or the poison. What it waited is added to the range.
 */
int jdr_room_take(jdr_filter *filter, struct jdr_range *range, uint64_t payload_bytes, int64_t limit_ns);
/* The same for a guest: 0 or -EMSGSIZE. If logging is off, the range is held without room. */
int jdr_room_or_bypass(jdr_filter *filter, struct jdr_range *range, uint64_t payload_bytes);

/* ---- record.c: with the range held ------------------------------------------------------------------------------ */

/* Log a change. This uses up the room in any case, as do the functions below. */
int64_t jdr_log_change(jdr_filter *filter, struct jdr_room room, const struct jdr_change *change);
/* The same for a guest. Returns 0 if logging is off. */
int64_t jdr_log_or_bypass(jdr_filter *filter, struct jdr_room room, const struct jdr_change *change);
/* The primary has failed a change: log what it holds now. False if primary and log may differ. */
bool jdr_log_failure(jdr_filter *filter, struct jdr_room room, const struct jdr_change *change);

/* Mark a primary's error as one after which primary and log may differ. */
static inline int jdr_suspect(int error)
{
    return -(-error | JDR_SUSPECT);
}

/* The same for a guest, and switch logging off. */
int jdr_suspect_and_bypass(jdr_filter *filter, int error);
/*
 * Wait, for a guest, until everything up to `lsn` is durable in the log. False if logging is off: only the primary can
 * be flushed.
 */
bool jdr_durable_or_bypass(jdr_filter *filter, uint64_t lsn);

#endif
