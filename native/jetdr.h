/*
 * jetdr.h: the native core of jetdr_core: IO filter, ring, log writer. Nothing else of the core is public.
 *
 * Data flows one way. A caller writes through a jdr_filter, which writes the primary disk and appends a record to the
 * jdr_ring. A jdr_writer takes records out of the ring and commits them, in LSN order, to a section of the log volume.
 * The core knows nothing of Python, NBD or hypervisors.
 *
 * Offsets and lengths are bytes, multiples of JDR_SECTOR. A function that can fail returns 0 or an LSN on success. On
 * failure it returns
 *   -errno;
 *   -JDR_EFENCED: a newer epoch owns the domain;
 *   -(JDR_PRIMARY | errno), from a filter: the primary disk failed. JDR_SUSPECT is added if primary and log may differ
 *   from now on.
 *
 * On the write path memory is allocated only to align a caller's buffer for direct I/O, and after a failure. Every wait
 * for replication has a limit. A wait for the primary has none. All functions are thread-safe unless they say
 * otherwise.
 */
#ifndef JETDR_H
#define JETDR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define JDR_SECTOR 512u
#define JDR_BLOCK 4096u
#define JDR_BATCH_RECORDS_MAX 4096u
#define JDR_RECORD_BYTES_MAX (32u << 20) /* payload of one record */
#define JDR_BATCH_BYTES_MAX (64u << 20)  /* payload of one batch. Readers believe no more */
#define JDR_UNSYNCED_BYTES_MAX (64ull << 20)

#define JDR_ERRNO_MAX 4095
#define JDR_EFENCED 10001   /* poison: a newer epoch owns the domain */
#define JDR_SUSPECT 0x10000 /* with JDR_PRIMARY */
#define JDR_PRIMARY 0x20000

/* ---- record ----------------------------------------------------------------------------------------------------- */

enum jdr_kind {
    JDR_WRITE = 1,
    JDR_ZERO = 2,
    JDR_GAP_OPEN = 4,
    JDR_VOID = 15
}; /* all but WRITE and ZERO are control records, with a payload that only the caller understands */
enum jdr_flag { JDR_BACKGROUND = 1, JDR_DISCARD = 2, JDR_REREAD = 4 };

/* The header of a record, as it is in ring, log and index. Little-endian. docs/formats/log-volume.md */
struct jdr_record {
    uint64_t lsn;
    int64_t time_ns; /* UTC, never decreasing along lsn */
    uint64_t offset;
    uint64_t length;
    uint64_t payload_checksum; /* XXH3-64 of the payload, 0 without payload */
    uint32_t disk;
    uint32_t payload_bytes; /* multiple of JDR_SECTOR */
    uint8_t kind;
    uint8_t flags;
    uint8_t reserved[14];
};
_Static_assert(sizeof(struct jdr_record) == 64, "the record header is a fixed 64 bytes");

/* ---- device ----------------------------------------------------------------------------------------------------- */

/*
 * A block device under the filter or the log writer. All functions return 0 or a negative errno.
 *
 * write() writes all of the pieces. After it failed, any part of the range may have changed. zero() makes the range
 * read as zeros. With `may_discard` it may give the space back. Without it, the space stays allocated if the device can
 * do that. sync() makes durable every change that returned before sync() began. After it failed, none of them may be
 * relied on.
 */
struct jdr_device {
    int (*read)(const struct jdr_device *, uint64_t offset, void *target, size_t length);
    int (*write)(const struct jdr_device *, uint64_t offset, const struct iovec *iov, int iov_count);
    int (*zero)(const struct jdr_device *, uint64_t offset, uint64_t length, bool may_discard);
    int (*sync)(const struct jdr_device *);
    void *context;        /* the implementation's own */
    int fd;               /* of a descriptor device, else -1 */
    uint32_t block_bytes; /* alignment of offsets and lengths */
};

/*
 * A device on an open descriptor of a regular file or block device, which stays the caller's. With O_DIRECT its
 * block_bytes are as given, and memory that is not aligned to them goes through a buffer. Without O_DIRECT it takes any
 * sector and any memory.
 */
void jdr_device_from_fd(struct jdr_device *device, int fd, uint32_t block_bytes);

/* ---- ring ------------------------------------------------------------------------------------------------------- */

typedef struct jdr_ring jdr_ring;

/* Two clocks that a caller moves, for tests and simulation. */
struct jdr_clock {
    _Atomic int64_t wall_ns, monotonic_ns;
};

struct jdr_ring_options {
    uint64_t payload_bytes;        /* a power of two, at least 64 KiB */
    uint64_t slots;                /* a power of two, at least 16. Fewer records are in the ring at once */
    uint64_t record_bytes_max;     /* most payload of one record. 0: as much as ring and log writer take */
    uint64_t lsn_next;             /* LSN of the first record to be appended, from 1 */
    int64_t time_ns_last;          /* no record gets an earlier time */
    const struct jdr_clock *clock; /* NULL: the machine's */
    bool write_back;               /* hold room until the primaries have the record, too. For a ring in a file */
};

/*
 * Create a ring in anonymous memory, which a forked child does not have. A record has at most half of payload_bytes,
 * and at most JDR_RECORD_BYTES_MAX. Fails with -ENOMEM, or -EINVAL for an option out of range.
 */
int jdr_ring_create(jdr_ring **ring, const struct jdr_ring_options *options);
/* Free it. No thread may be inside a call that uses the ring. */
void jdr_ring_destroy(jdr_ring *ring);

/* Room for one record, taken in the ring. Only the ring knows what it means. All zero is no room. */
struct jdr_room {
    uint64_t taken;
};

/*
 * Take room for one record with at most payload_bytes, waiting no longer than limit_ns. Exactly one jdr_ring_append or
 * jdr_ring_cancel uses the room up. Fails with -ETIMEDOUT, -EMSGSIZE (longer than record_bytes_max), -ECANCELED
 * (logging is off, and this is the host's side) or the poison.
 */
int jdr_ring_admit(jdr_ring *ring, uint64_t payload_bytes, int64_t limit_ns, struct jdr_room *room);
void jdr_ring_cancel(jdr_ring *ring, struct jdr_room room);
/*
 * Append a record: give it an LSN and a time (stored to *record), copy and hash `length` payload bytes, pad them with
 * zeros to record->payload_bytes, publish. Returns the LSN, and never waits for the consumer. The room is used up in
 * any case. In a file it fails with -ECANCELED (logging is off) or -ETIMEDOUT (a producer was stopped while it held a
 * lock).
 */
int64_t jdr_ring_append(jdr_ring *ring, struct jdr_room room, struct jdr_record *record, const void *payload,
                        size_t length);

/*
 * Ask that everything up to lsn become durable, as far as it has been given out. wait_durable also waits for it.
 * Returns 0, -ETIMEDOUT, -ECANCELED (logging is off, and this is the host's side) or the poison.
 */
void jdr_ring_request_durable(jdr_ring *ring, uint64_t lsn);
int jdr_ring_wait_durable(jdr_ring *ring, uint64_t lsn, int64_t limit_ns);

/* From now on every admission and every wait of this process fails with -error (> 0). The first error stays. */
void jdr_ring_poison(jdr_ring *ring, int error);

uint64_t jdr_ring_lsn_reserved(const jdr_ring *ring); /* last LSN given out */
uint64_t jdr_ring_lsn_durable(const jdr_ring *ring);
int64_t jdr_ring_time_last(const jdr_ring *ring); /* latest time given out */
/* The last LSN given out, and an instant at which it was the last. No later record gets an earlier time. */
uint64_t jdr_ring_observe(jdr_ring *ring, int64_t *time_ns);
uint64_t jdr_ring_used_bytes(const jdr_ring *ring);
uint64_t jdr_ring_record_bytes_max(const jdr_ring *ring); /* the most payload that one record holds */
uint64_t jdr_ring_payload_bytes(const jdr_ring *ring);
int jdr_ring_poisoned(const jdr_ring *ring); /* 0 or the error */
int64_t jdr_ring_now(const jdr_ring *ring);

/*
 * The wall clock against the times of records (core/record_clock.h), which are ahead of it by `lead_ns`. `away_ns` says
 * by how much the wall clock has left the monotonic one without being followed, and 0 if it is followed.
 * `away_since_ns` is the last time given out before. The instants from `doubted_since_ns` on may not be those at which
 * records were captured, and 0 if none is in doubt.
 */
struct jdr_ring_clock {
    int64_t wall_ns, monotonic_ns, lead_ns, time_ns_last;
    int64_t away_ns, away_since_ns;
    int64_t doubted_since_ns;
};
void jdr_ring_look_at_clock(jdr_ring *ring, struct jdr_ring_clock *clock);
/* The history says since when instants are in doubt, so the doubt is taken away. */
void jdr_ring_settle_doubt(jdr_ring *ring, int64_t doubted_since_ns);
/* Record times are ahead of the wall clock by `lead_ns` from now on. -ETIMEDOUT if the lock is not to be had. */
int jdr_ring_set_lead(jdr_ring *ring, int64_t lead_ns);

/* ---- ring in a file --------------------------------------------------------------------------------------------- */

/*
 * A ring in a file on tmpfs is shared by two processes and outlives both: the host component, whose filters append, and
 * the DRVA, which appends control records and has the log writer. Room is given back when records are durable in the
 * log, so the ring holds everything that is not. docs/formats/ring.md has the layout, native/core/ring.c the protocol.
 *
 * Logging is on or off. The host switches it off before a write or flush fails, or waits beyond the stall limit,
 * because of replication. While it is off, nothing is appended but a GAP_OPEN of the DRVA (-ECANCELED), filters write
 * to their primaries alone, and flushes do without the log. The DRVA switches logging on again after the GAP_OPEN, and
 * has all disks resynced. A write that is in flight at either moment holds its range, so a copy of that range comes
 * after it.
 */
enum jdr_side { JDR_HOST = 0, JDR_DRVA = 1 };
enum jdr_off_reason {
    JDR_OFF_FULL = 1,     /* the ring stayed full for the stall limit */
    JDR_OFF_FLUSH = 2,    /* a flush was not durable within the stall limit */
    JDR_OFF_DISK = 3,     /* primary and log of `disk` may differ */
    JDR_OFF_DRVA = 4,     /* the DRVA said so: fenced, or a new log */
    JDR_OFF_OVERLOAD = 5, /* the log was full, and the guests of `disk` had waited for as long as the DRVA allows */
};

struct jdr_ring_off {
    bool logging; /* logging is on. The rest is about the last time that it was switched off */
    uint32_t reason, disk;
    int64_t since_ns; /* UTC, up to which the log is complete */
    uint64_t count;   /* how often logging was switched off */
};

/*
 * Lay out a ring in the empty file `fd`. Fails with -EINVAL (an option, or no empty file on tmpfs), -ENOSPC or -errno.
 */
int jdr_ring_format(int fd, const struct jdr_ring_options *options, const uint8_t domain[16]);
/*
 * Map the ring in `fd`, which stays the caller's, and be its `side` until jdr_ring_destroy or the end of the process. A
 * failure changes nothing: -EBADMSG (no ring, or a damaged one), -EPROTONOSUPPORT (another version), -ESTALE (another
 * domain's, unless `domain` is NULL), -EBUSY (the side is taken) or -EACCES (others may read or write the file).
 */
int jdr_ring_open(jdr_ring **ring, int fd, enum jdr_side side, const uint8_t domain[16]);
/* Give the side up. Nothing but jdr_ring_destroy may be called after it. */
void jdr_ring_leave(jdr_ring *ring);
/* The host ends in order: its filters are closed, and their primaries and the log agree. */
void jdr_ring_end(jdr_ring *ring);
bool jdr_ring_side_alive(const jdr_ring *ring, enum jdr_side side);
/* True if no host is alive, and the last one, if there was one, ended in order. */
bool jdr_ring_host_ended(const jdr_ring *ring);

void jdr_ring_off(const jdr_ring *ring, struct jdr_ring_off *off);
/* Idempotent: the first reason stays. `disk` is for JDR_OFF_DISK. */
void jdr_ring_stop_logging(jdr_ring *ring, enum jdr_off_reason reason, uint32_t disk);
/* For the DRVA, after a GAP_OPEN. */
void jdr_ring_resume_logging(jdr_ring *ring);

/*
 * For the DRVA, before it has a log writer: the log ends at `lsn`. The ring gives back what it holds up to there, and
 * the log continues with what comes after. -ESTALE if log and ring do not meet.
 */
int jdr_ring_adopt(jdr_ring *ring, uint64_t lsn);
/*
 * For the DRVA, with logging off: forget what the ring holds, and continue with lsn_next, time_ns_last and
 * record_bytes_max of `options`. The log is complete up to time_ns_last. Fails with -EBUSY (the host still holds room:
 * try again) or -EINVAL.
 */
int jdr_ring_reset(jdr_ring *ring, const struct jdr_ring_options *options);

/*
 * What overload may cost guests, as the DRVA says it (core/backpressure.h). It holds for valid_ns, so that no guest is
 * delayed on the word of a DRVA that is gone.
 */
struct jdr_pressure {
    uint64_t bytes_per_s; /* that each disk may log. 0: no write is delayed */
    int64_t delay_max_ns; /* of one write. Never beyond its stall limit */
    int64_t budget_ns;    /* how long the calls of one disk may wait in each JDR_BUDGET_PERIOD_NS */
    int64_t valid_ns;     /* for how long this holds from now on */
};
/* For the DRVA, or the owner of a ring in memory. */
void jdr_ring_set_pressure(jdr_ring *ring, const struct jdr_pressure *pressure);

bool jdr_ring_write_back(const jdr_ring *ring);
/* In write-back: the primaries have everything up to here, durably. */
uint64_t jdr_ring_lsn_in_primaries(const jdr_ring *ring);
/* In write-back: does a working primary still lack, durably, something that the ring was given? */
bool jdr_ring_primaries_lag(const jdr_ring *ring);
/*
 * For the DRVA, in write-back without a host: the primaries have been flushed, so they have, durably, what the last
 * host gave them. False if a host lives, or if a primary has failed, because the log must keep what that primary lacks.
 * Nothing is then changed.
 */
bool jdr_ring_primaries_flushed(jdr_ring *ring);
/* A primary lacks an acknowledged write. The log must keep it, and no host serves the disk from this primary. */
void jdr_ring_note_primary_failure(jdr_ring *ring, uint32_t disk);

#include "jetdr_map.h"

/* ---- IO filter -------------------------------------------------------------------------------------------------- */

typedef struct jdr_filter jdr_filter;
typedef struct jdr_applier jdr_applier; /* of write-back, see below */

struct jdr_filter_options {
    jdr_ring *ring; /* NULL: writes go to the primary alone */
    struct jdr_device primary;
    uint32_t disk; /* its number within the domain */
    uint64_t size_bytes;
    uint64_t record_bytes_max; /* at most JDR_RECORD_BYTES_MAX and the ring's */
    int64_t stall_limit_ns;
    bool bypass;          /* for a ring in a file: switch logging off, and never fail a guest's call for the log */
    jdr_applier *applier; /* NULL: write-through. Else write-back, with bypass */
    jdr_dirty_map *map;   /* NULL: none is kept */
};

/*
 * All that a filter counts on its disk, listed once: struct jdr_filter_stats, FilterStats in Python and the words of
 * the host component's answer to STATS come from this list. What status and metrics show of it:
 * jetdr_core/domain/status.py.
 */
#define JDR_FILTER_STATS(X)                                                                                \
    X(writes)                                                                                              \
    X(write_bytes)                                                                                         \
    X(zeros)                                                                                               \
    X(zero_bytes)                                                                                          \
    X(reads)                                                                                               \
    X(read_bytes)                                                                                          \
    X(flushes)                                                                                             \
    X(background_bytes)                                                                                    \
    X(overlaps_waited)                                                                                     \
    X(stalls) /* writes that waited for room */                                                            \
    X(stall_ns)                                                                                            \
    X(stall_ns_max) /* of one write */                                                                     \
    X(throttled)    /* writes that backpressure delayed */                                                 \
    X(throttled_ns)                                                                                        \
    X(throttled_ns_max) /* of one write */                                                                 \
    X(failed_writes)                                                                                       \
    X(unlogged_writes)                                                                                     \
    X(unlogged_bytes)                                                                                      \
    X(suspect)     /* 1: primary and log may differ. Stays until jdr_filter_trust */                       \
    X(sync_failed) /* errno of the primary's first failed flush, 0 for none. Stays */                      \
    X(trouble)     /* what is answered with errors at present: 1 flushes, 2 changes, 3 reads, 0 nothing */ \
    X(trouble_errno)                                                                                       \
    X(trouble_since_ns) /* wall clock */

struct jdr_filter_stats {
#define JDR_FILTER_STAT(name) uint64_t name;
    JDR_FILTER_STATS(JDR_FILTER_STAT)
#undef JDR_FILTER_STAT
};

/* Fails with -ENOMEM, or -EINVAL for an option out of range or a primary that takes no single sectors (block_bytes). */
int jdr_filter_open(jdr_filter **filter, const struct jdr_filter_options *options);
/*
 * Write, in this order: room in the ring, the range (overlapping writes take turns), the primary, the record. Returns
 * the LSN, or 0 if nothing was logged. The caller does not change the data during the call. With bypass or without a
 * ring, a write that is longer than record_bytes_max becomes several, one after the other, and the LSN is the last
 * one's.
 *
 * Nothing was changed after
 *   -EINVAL: unaligned, out of range or too long;
 *   -ESHUTDOWN: closed;
 *   -ETIMEDOUT: no room in the ring within the stall limit;
 *   -EBUSY: for the stall limit, writes of this disk that its primary did not answer held half of the ring. No disk
 *           gets more, so that a primary that hangs does not stop the other disks;
 *   the ring's poison.
 * With bypass the last three are not returned: logging is switched off, and a primary that hangs is waited for. Where a
 * write becomes several, an error is about the one that failed. Those before it are done.
 *
 * After -(JDR_PRIMARY | errno) what the primary holds in the range has been read back and logged. If that failed as
 * well, JDR_SUSPECT is set: the caller opens a gap in the log, and resyncs the disk.
 */
int64_t jdr_filter_pwrite(jdr_filter *filter, const void *data, size_t length, uint64_t offset);

/* What becomes of the space under zeros. */
enum jdr_zeroing {
    JDR_ZERO_KEEPS_SPACE, /* it stays allocated if the device can do that, but not in write-back: no record says so */
    JDR_ZERO_FREES_SPACE, /* it may be given back */
    JDR_ZERO_DISCARDS,    /* the guest's TRIM: it may be given back, and the record says so */
};

/*
 * Write zeros: one record without payload, however long. Otherwise like jdr_filter_pwrite, except that a range that the
 * primary failed to zero is not read back, and the disk is suspect.
 */
int64_t jdr_filter_zero(jdr_filter *filter, uint64_t offset, uint64_t length, enum jdr_zeroing zeroing);
int jdr_filter_pread(jdr_filter *filter, void *target, size_t length, uint64_t offset);
/*
 * Make durable what was acknowledged before the call: in the log, of all disks of the ring, and in the primary, of this
 * disk. With an applier: in the log, or in the primary if logging is off. Returns the LSN that is durable.
 *
 * -ETIMEDOUT after the stall limit: nothing is lost, but durability is not known. Once the primary has failed a flush,
 * every flush of this filter fails with that error: no later flush brings back what was lost, even if the primary says
 * so. JDR_SUSPECT is set, with bypass only the first time.
 */
int64_t jdr_filter_flush(jdr_filter *filter);
/*
 * Log what the primary holds in a range as background data, with the range held. Returns the LSN. Zeros become a ZERO
 * record. Fails like jdr_filter_pwrite without bypass, and with -E2BIG (longer than record_bytes_max, and no hole of
 * the primary's file) or -ECANCELED (logging is off).
 */
int64_t jdr_filter_copy(jdr_filter *filter, uint64_t offset, uint64_t length);

#define JDR_DIGEST 16                    /* bytes: XXH3-128, canonical */
#define JDR_DIGEST_BYTES_MAX (1ul << 20) /* the longest range that is digested */

/*
 * The digest of what the disk holds in a range, with the range held. Returns the LSN at which the disk holds exactly
 * that, 0 before the first record. Nothing is logged. Fails like jdr_filter_pread, with -EINVAL for a longer range or
 * without a ring, and with -ECANCELED if logging is off or the disk is suspect, because disk and log may then differ.
 */
int64_t jdr_filter_digest(jdr_filter *filter, uint64_t offset, size_t length, uint8_t digest[JDR_DIGEST]);
/*
 * One step of the lazy clearing of the dirty map, to be taken every few seconds. Returns 0, or the primary's error if
 * that failed to be flushed.
 */
int jdr_filter_tend_map(jdr_filter *filter);
/*
 * Wait until every write has ended that is in flight now. What logging off has made of those is then in the dirty map.
 * Returns 0, -ETIMEDOUT or -ESHUTDOWN.
 */
int jdr_filter_settle(jdr_filter *filter, int64_t limit_ns);
void jdr_filter_stats(jdr_filter *filter, struct jdr_filter_stats *stats);
/* No longer suspect: a resync of all of the disk is about to begin. */
void jdr_filter_trust(jdr_filter *filter);
uint64_t jdr_filter_size(const jdr_filter *filter);
/*
 * Take calls for a primary that has grown to `size_bytes`. The caller has seen to it that the log says so before.
 * -EINVAL for a smaller size, or for one that is no multiple of a sector. -EOPNOTSUPP for a disk with a dirty map: the
 * other function gives it a map of the new size in `sidecar`, which *map becomes, while no write is in flight. The
 * smaller map is then the caller's to free.
 */
int jdr_filter_grow(jdr_filter *filter, uint64_t size_bytes);
int jdr_filter_grow_map(jdr_filter *filter, uint64_t size_bytes, const struct jdr_device *sidecar, jdr_dirty_map **map);
/*
 * Refuse new calls (-ESHUTDOWN), and wait for those inside, which may wait for room. With an applier, the primary then
 * has what was acknowledged, and the applier has let go of it, so the primary may be closed and the disk opened again.
 * Idempotent while the applier runs.
 */
void jdr_filter_close(jdr_filter *filter);
/* Free it. No thread may be inside a call. */
void jdr_filter_destroy(jdr_filter *filter);

/* ---- write-back ------------------------------------------------------------------------------------------------- */

/*
 * The applier gives what is durable in the log to the primaries, in LSN order: one thread for all disks of a ring in a
 * file with `write_back`. A filter that has an applier completes a write when the ring has it, and a flush when the log
 * is durable. Its reads find the newest data.
 *
 * When logging goes off, everything in the ring is applied and the primaries are flushed. Then `bypassed_file` is made
 * durable, and only then does a write go to its primary alone. So no power loss is followed by a replay of the log over
 * such a write.
 *
 * Create the applier, open the filters of all disks, then run it.
 */
int jdr_applier_create(jdr_applier **applier, jdr_ring *ring, const char *bypassed_file);
/* Apply until jdr_applier_stop. One thread. */
void jdr_applier_run(jdr_applier *applier);
/* Let jdr_applier_run apply what is durable now, flush the primaries, and return. */
void jdr_applier_stop(jdr_applier *applier);
/* Free it, after its filters. */
void jdr_applier_destroy(jdr_applier *applier);

/* ---- log writer ------------------------------------------------------------------------------------------------- */

typedef struct jdr_writer jdr_writer;

struct jdr_writer_options {
    jdr_ring *ring;
    struct jdr_device device;
    uint64_t data_offset, data_bytes; /* the section's data area on the device, multiples of JDR_BLOCK */
    uint64_t section_id, epoch;
    uint64_t head_position, tail_position; /* virtual positions */
    uint64_t batch_number;                 /* last batch in the log, 0 for none */
    uint64_t previous_checksum;            /* of that batch */
    uint64_t batch_bytes_max;              /* most payload, unless one record has more. At most JDR_BATCH_BYTES_MAX */
};

struct jdr_writer_state {
    uint64_t lsn_written, lsn_durable, batch_written, batch_durable;
    uint64_t head_position, durable_position, previous_checksum;
    uint64_t bytes_written, commits, flushes;
    int failed; /* 0 or the errno that poisoned the writer */
};

/*
 * The ring's consumer, one per ring, created before anything is admitted. Fails with -EINVAL for geometry out of range,
 * or a ring that was given a record_bytes_max above a quarter of data_bytes. A record of up to a quarter fits wherever
 * the lap ends.
 */
int jdr_writer_create(jdr_writer **writer, const struct jdr_writer_options *options);
void jdr_writer_destroy(jdr_writer *writer);
/*
 * One commit: take what is published, at most one batch, and write it. Flush if durability is wanted or the log is
 * full. Returns the records written: 0 if there was nothing to write, or no room. After a negative errno the ring is
 * poisoned.
 */
int jdr_writer_commit(jdr_writer *writer);
/* Commit until jdr_writer_stop: 0, or the negative errno that poisoned the ring. One thread. */
int jdr_writer_run(jdr_writer *writer);
/*
 * Let jdr_writer_run commit and flush what is published now, as far as the log has room, and return. What is appended
 * meanwhile may stay in the ring, which nothing drains any more. The stop is final: the next jdr_writer_run returns at
 * once.
 */
void jdr_writer_stop(jdr_writer *writer);
/*
 * The log before `position` may be overwritten. -EINVAL unless it is a multiple of JDR_BLOCK between tail and durable
 * position.
 */
int jdr_writer_set_tail(jdr_writer *writer, uint64_t position);
void jdr_writer_state(jdr_writer *writer, struct jdr_writer_state *state);

#endif
