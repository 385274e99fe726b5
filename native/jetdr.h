/*
 * jetdr.h: the native core of jetdr_core: IO filter, ring, log writer.
 *
 * Data flows one way: a caller writes through a jdr_filter, which writes the primary disk and appends a record to the
 * jdr_ring; a jdr_writer takes records out of the ring and commits them, in LSN order, to a section of the log volume.
 * The core knows nothing of Python, NBD or hypervisors.
 *
 * Conventions. Offsets and lengths are bytes, multiples of JDR_SECTOR. Functions that can fail return 0 (or a positive
 * LSN) on success and a negative number on failure: -errno; -JDR_EFENCED; or, from the filter, -(JDR_PRIMARY | errno)
 * for an error of the primary disk, with JDR_SUSPECT added where primary and log may differ from now on. On the write
 * path memory is allocated only to align a caller's for direct I/O, and after a failure. Every wait for replication has
 * a limit; the primary is waited for as long as it takes. All functions are thread-safe unless they say otherwise.
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
#define JDR_BATCH_BYTES_MAX (64u << 20)  /* payload of one batch: readers believe no more */
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
}; /* from 3 on: control records, whose payload is the caller's affair */
enum jdr_flag { JDR_BACKGROUND = 1, JDR_DISCARD = 2, JDR_REREAD = 4 };

/* One captured write, as it stands in ring, log and index; docs/formats/log-volume.md. Little-endian. */
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
 * A block device under the filter or the log writer. write() is vectored and whole: 0, or a negative errno after which
 * any part of the range may have changed. zero() makes the range read as zeros; with `may_discard` it may give their
 * space back, without it the space stays allocated where the device can do that. sync() makes durable every write that
 * returned before it began; after it fails none of them may be relied on.
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
 * A device on an open descriptor (regular file or block device), which stays the caller's. With O_DIRECT its
 * block_bytes are as given, and memory that is not so aligned goes through a buffer; without, any sector and any memory
 * will do.
 */
void jdr_device_from_fd(struct jdr_device *device, int fd, uint32_t block_bytes);

/* ---- ring ------------------------------------------------------------------------------------------------------- */

typedef struct jdr_ring jdr_ring;

struct jdr_ring_options {
    uint64_t payload_bytes;       /* a power of two, at least 64 KiB */
    uint64_t slots;               /* more than the records in the ring at most; a power of two, at least 16 */
    uint64_t record_bytes_max;    /* payload of one record: at most half of payload_bytes, and JDR_RECORD_BYTES_MAX;
                                             0: that, or what the log writer's section takes, if less */
    uint64_t lsn_next;            /* LSN of the first record to be appended, from 1 */
    int64_t time_ns_last;         /* records get no earlier time than this */
    const _Atomic int64_t *clock; /* NULL: CLOCK_REALTIME */
    bool write_back;              /* room is held until the primaries have the record, too; ring in a file only */
};

/* Create a ring in anonymous memory, which a forked child does not have: -ENOMEM, or -EINVAL for an option out of
 * range. */
int jdr_ring_create(jdr_ring **ring, const struct jdr_ring_options *options);
/* Free it. No thread may be inside a call that uses the ring. */
void jdr_ring_destroy(jdr_ring *ring);

/* Room for one record, taken in the ring. What it says is the ring's affair; all zero is no room. */
struct jdr_room {
    uint64_t taken;
};

/*
 * Admit one record of at most payload_bytes: takes room for it, waiting at most limit_ns. -ETIMEDOUT, the poison, or
 * -EMSGSIZE: longer than record_bytes_max. Give the room to exactly one jdr_ring_append or jdr_ring_cancel.
 */
int jdr_ring_admit(jdr_ring *ring, uint64_t payload_bytes, int64_t limit_ns, struct jdr_room *room);
void jdr_ring_cancel(jdr_ring *ring, struct jdr_room room);
/*
 * Append a record that `room` was taken for: assigns LSN and time (stored to *record), copies and hashes `length`
 * payload bytes, pads them with zeros to record->payload_bytes, publishes. Never waits for the consumer. Returns the
 * LSN; or, in a file, -ECANCELED: logging is off, -ETIMEDOUT: the other side was stopped while it held a lock. The room
 * is used up in any case.
 */
int64_t jdr_ring_append(jdr_ring *ring, struct jdr_room room, struct jdr_record *record, const void *payload,
                        size_t length);

/*
 * Ask that everything up to lsn become durable (no waiting), or wait for it: 0, -ETIMEDOUT, or the poison. What has not
 * been given out yet is not asked for.
 */
void jdr_ring_request_durable(jdr_ring *ring, uint64_t lsn);
int jdr_ring_wait_durable(jdr_ring *ring, uint64_t lsn, int64_t limit_ns);

/* From now on every admit and unfinished wait of this process fails with -error (> 0, or it is EIO); the first stays.
 */
void jdr_ring_poison(jdr_ring *ring, int error);

uint64_t jdr_ring_lsn_reserved(const jdr_ring *ring); /* last LSN given out */
uint64_t jdr_ring_lsn_durable(const jdr_ring *ring);
int64_t jdr_ring_time_last(const jdr_ring *ring); /* latest time given out */
/* The last LSN given out and an instant at which it was: no later record gets an earlier time. */
uint64_t jdr_ring_observe(jdr_ring *ring, int64_t *time_ns);
uint64_t jdr_ring_used_bytes(const jdr_ring *ring);
uint64_t jdr_ring_record_bytes_max(const jdr_ring *ring);
uint64_t jdr_ring_payload_bytes(const jdr_ring *ring);
int jdr_ring_poisoned(const jdr_ring *ring); /* 0 or the error */
int64_t jdr_ring_now(const jdr_ring *ring);

/* ---- ring in a file --------------------------------------------------------------------------------------------- */

/*
 * A ring in a file on tmpfs is shared by two processes: the host component, whose filters append, and the DRVA, which
 * appends control records and has the log writer. It outlives both. Room is given back when records are durable in the
 * log, so it always holds everything that is not. docs/formats/ring.md has the layout.
 *
 * Logging is on or off. The host switches it off when a write or flush would otherwise fail or wait beyond the stall
 * limit because of replication, and before such a write reaches a primary; then nothing but a GAP_OPEN of the DRVA's is
 * appended (-ECANCELED), filters write to their primaries alone, and flushes do without the log. The DRVA switches it
 * on again after the GAP_OPEN, and has all disks resynced. A write that is in flight at either moment holds its range:
 * a copy of that range comes after it.
 */
enum jdr_side { JDR_HOST = 0, JDR_DRVA = 1 };
enum jdr_off_reason {
    JDR_OFF_FULL = 1,  /* ring full for the stall limit */
    JDR_OFF_FLUSH = 2, /* a flush not durable within the stall limit */
    JDR_OFF_DISK = 3,  /* primary and log of `disk` may differ */
    JDR_OFF_DRVA = 4,  /* the DRVA said so: fenced, or a new log */
};

struct jdr_ring_off {
    bool logging; /* on; the rest is about the last time it was switched off */
    uint32_t reason, disk;
    int64_t since_ns; /* UTC: what the log holds is complete up to here */
    uint64_t count;   /* how often it was switched off */
};

/* Lay out a ring in the empty file `fd`: -EINVAL: options, or a file system other than tmpfs; -ENOSPC; -errno. */
int jdr_ring_format(int fd, const struct jdr_ring_options *options, const uint8_t domain[16]);
/*
 * Map the ring in `fd` (which stays the caller's) and become its `side`, until jdr_ring_destroy or the process's end.
 * -EBADMSG: no ring, or a damaged one; -EPROTONOSUPPORT: another version; -ESTALE: another domain's (NULL: any will
 * do); -EBUSY: the side is taken; -EACCES: others may read or write the file. Nothing is changed then.
 */
int jdr_ring_open(jdr_ring **ring, int fd, enum jdr_side side, const uint8_t domain[16]);
/* Give the side up before jdr_ring_destroy; of use is only that from then on. */
void jdr_ring_leave(jdr_ring *ring);
/* The host's orderly end: its filters are closed, and their primaries and the log agree. Before jdr_ring_destroy. */
void jdr_ring_end(jdr_ring *ring);
bool jdr_ring_side_alive(const jdr_ring *ring, enum jdr_side side);
/* Did the last host end in order (or was there none yet)? Not while one is alive. */
bool jdr_ring_host_ended(const jdr_ring *ring);

void jdr_ring_off(const jdr_ring *ring, struct jdr_ring_off *off);
/* Does nothing when it is off. `disk` for JDR_OFF_DISK. */
void jdr_ring_stop_logging(jdr_ring *ring, enum jdr_off_reason reason, uint32_t disk);
void jdr_ring_resume_logging(jdr_ring *ring); /* the DRVA's */

/*
 * The DRVA's, before its log writer: the log ends at `lsn`. What the ring holds up to there is given back, what it
 * holds after it comes next. -ESTALE: log and ring do not meet.
 */
int jdr_ring_adopt(jdr_ring *ring, uint64_t lsn);
/*
 * The DRVA's, logging off: forget what the ring holds; go on as `options` say (lsn_next, time_ns_last,
 * record_bytes_max), complete up to time_ns_last. -EBUSY: the host still holds room, try again; -EINVAL.
 */
int jdr_ring_reset(jdr_ring *ring, const struct jdr_ring_options *options);
uint64_t jdr_ring_lsn_in_primaries(const jdr_ring *ring); /* write-back: durable in the primaries up to here */
/* Write-back: do the primaries that work still lack, durably, something that the ring was given? */
bool jdr_ring_primaries_lag(const jdr_ring *ring);
/*
 * The DRVA's, with write-back and no host: the primaries have been flushed, so what that host had given them is durable
 * in them. false: a host lives, or a primary had failed, and the log must keep it.
 */
bool jdr_ring_primaries_flushed(jdr_ring *ring);
/* A primary lacks what was acknowledged: the log must keep it, and no host serves the disk from what the primary has.
 */
void jdr_ring_note_primary_failure(jdr_ring *ring, uint32_t disk);
bool jdr_ring_write_back(const jdr_ring *ring);

/* ---- IO filter -------------------------------------------------------------------------------------------------- */

typedef struct jdr_filter jdr_filter;
typedef struct jdr_applier jdr_applier; /* of write-back, see below */

struct jdr_filter_options {
    jdr_ring *ring; /* NULL: writes go to the primary alone */
    struct jdr_device primary;
    uint32_t disk; /* its number within the domain */
    uint64_t size_bytes;
    uint64_t record_bytes_max; /* at most JDR_RECORD_BYTES_MAX, and the ring's record_bytes_max */
    int64_t stall_limit_ns;
    bool bypass;          /* switch the ring's logging off rather than fail a guest's call: for a ring in a file */
    jdr_applier *applier; /* write-back through this applier; NULL: write-through */
};

/*
 * All that a filter counts on its disk, listed once: struct jdr_filter_stats, FilterStats in Python and the words of
 * the host component's answer to STATS come from this list. What status and metrics show of it:
 * jetdr_core/domain/status.py.
 */
#define JDR_FILTER_STATS(X)                                                          \
    X(writes)                                                                        \
    X(write_bytes)                                                                   \
    X(zeros)                                                                         \
    X(zero_bytes)                                                                    \
    X(reads)                                                                         \
    X(read_bytes)                                                                    \
    X(flushes)                                                                       \
    X(background_bytes)                                                              \
    X(overlaps_waited)                                                               \
    X(stalls) /* writes that waited for room */                                      \
    X(stall_ns)                                                                      \
    X(stall_ns_max) /* of one write */                                               \
    X(failed_writes)                                                                 \
    X(unlogged_writes)                                                               \
    X(unlogged_bytes)                                                                \
    X(suspect)     /* 1: primary and log may differ; stays until jdr_filter_trust */ \
    X(sync_failed) /* errno of the primary's first failed flush, 0 for none; stays */

struct jdr_filter_stats {
#define JDR_FILTER_STAT(name) uint64_t name;
    JDR_FILTER_STATS(JDR_FILTER_STAT)
#undef JDR_FILTER_STAT
};

/* -ENOMEM, or -EINVAL: an option out of range, or a primary that takes no single sectors (block_bytes). */
int jdr_filter_open(jdr_filter **filter, const struct jdr_filter_options *options);
/*
 * Write-through: room in the ring, then the range (overlapping writes in flight take turns), then the primary, then the
 * record. Returns the LSN (0 without a ring). The caller must not change the data during the call. With bypass, or
 * without a ring, a write that is too long for one record becomes several, one after the other, and the LSN is the last
 * one's; otherwise it is refused.
 *
 * Nothing was changed after -EINVAL: unaligned, out of range or too long; -ESHUTDOWN: closed; the ring's poison;
 * -ETIMEDOUT: no room in the ring within the stall limit; -EBUSY: all that time half the ring was held by writes of
 * this disk that its primary had not answered (no disk gets more, so that one that hangs does not stop the others);
 * with bypass that is waited for, as the primary's answers are. After -(JDR_PRIMARY | errno) what the primary now holds
 * in the range has been read back and logged; if that failed too, JDR_SUSPECT is set: the caller opens a gap in the
 * log, and copies the disk again.
 */
int64_t jdr_filter_pwrite(jdr_filter *filter, const void *data, size_t length, uint64_t offset);
/* What becomes of the space under zeros. */
enum jdr_zeroing {
    JDR_ZERO_KEEPS_SPACE, /* it stays allocated where the device can do that; not in write-back, as no record says so */
    JDR_ZERO_FREES_SPACE, /* it may be given back */
    JDR_ZERO_DISCARDS,    /* the guest's TRIM: likewise, and the record says so */
};
/*
 * Zeros on both sides; one record without payload, however long. Otherwise like jdr_filter_pwrite, but a range that the
 * primary failed to zero is not read back: the disk is suspect.
 */
int64_t jdr_filter_zero(jdr_filter *filter, uint64_t offset, uint64_t length, enum jdr_zeroing zeroing);
int jdr_filter_pread(jdr_filter *filter, void *target, size_t length, uint64_t offset);
/*
 * Everything acknowledged on any disk of the ring before the call is durable in the log, and this disk's in its primary
 * (with an applier: in the log, or, with logging off, in the primary).
 * Returns the LSN that is durable. -ETIMEDOUT after the stall limit: nothing is lost, but durability is not known.
 * Once the primary has failed a flush, that error, with JDR_SUSPECT, is the answer to every flush of this filter: what
 * was lost then is brought back by no later flush, though the primary would claim it.
 */
int64_t jdr_filter_flush(jdr_filter *filter);
/*
 * Log what the primary holds as background data, the range held meanwhile; returns the LSN. Zeros become a ZERO record.
 * -E2BIG: longer than record_bytes_max, and not a hole of the primary's file system. Otherwise like jdr_filter_pwrite.
 */
int64_t jdr_filter_copy(jdr_filter *filter, uint64_t offset, uint64_t length);
void jdr_filter_stats(jdr_filter *filter, struct jdr_filter_stats *stats);
/* No longer suspect: a resync of all of the disk is about to begin. */
void jdr_filter_trust(jdr_filter *filter);
/*
 * Refuse new calls (-ESHUTDOWN) and wait for all those inside, which may wait for room. With an applier, what was
 * acknowledged is then in the primary, and the applier has let go of it: the primary may be closed, and the disk be
 * opened again. Idempotent, while the applier runs.
 */
void jdr_filter_close(jdr_filter *filter);
/* Free it. No thread may be inside a call. */
void jdr_filter_destroy(jdr_filter *filter);

/* ---- write-back ------------------------------------------------------------------------------------------------- */

/*
 * The applier writes what is durable in the log to the primaries, in LSN order, one thread for all disks of a ring in a
 * file with `write_back`. A filter that has one completes a write when the ring has it, reads the newest data, and a
 * flush when the log is durable. When logging goes off, everything in the ring is applied and flushed to the primaries,
 * then `bypassed_file` is created durably, and only then does a write go to its primary alone: a power loss later is
 * not followed by a replay of the log over such a write. Create it before the filters; open all of the disks' filters,
 * then run.
 */
int jdr_applier_create(jdr_applier **applier, jdr_ring *ring, const char *bypassed_file);
/* Until jdr_applier_stop, which makes it apply what is durable and flush the primaries. One thread. */
void jdr_applier_run(jdr_applier *applier);
void jdr_applier_stop(jdr_applier *applier);
/* After its filters. */
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
    uint64_t batch_bytes_max;              /* payload; a single record may be longer. At most JDR_BATCH_BYTES_MAX */
};

struct jdr_writer_state {
    uint64_t lsn_written, lsn_durable, batch_written, batch_durable;
    uint64_t head_position, durable_position, previous_checksum;
    uint64_t bytes_written, commits, flushes;
    int failed; /* 0 or the errno that poisoned the writer */
};

/*
 * The ring's consumer; one per ring, created before anything is admitted. -EINVAL for geometry outside its range, or
 * for a ring whose record_bytes_max is above a quarter of data_bytes: up to that, a record fits wherever the lap ends.
 */
int jdr_writer_create(jdr_writer **writer, const struct jdr_writer_options *options);
void jdr_writer_destroy(jdr_writer *writer);
/*
 * One commit: take what is published (at most one batch), write it, flush when durability is wanted or the log is full.
 * Returns the records written, 0 when there was nothing to write or no room, or a negative errno, after which the ring
 * is poisoned.
 */
int jdr_writer_commit(jdr_writer *writer);
/* Commit until jdr_writer_stop; returns 0 or the negative errno that poisoned the ring. One thread. */
int jdr_writer_run(jdr_writer *writer);
/*
 * Let jdr_writer_run commit and flush what is published now, as far as the log has room, then return, also while more
 * is appended: that stays in the ring, which nothing drains any more. For good: jdr_writer_run then returns at once.
 */
void jdr_writer_stop(jdr_writer *writer);
/* The log's space before `position` may be overwritten. -EINVAL: not a batch's place between tail and durable position.
 */
int jdr_writer_set_tail(jdr_writer *writer, uint64_t position);
void jdr_writer_state(jdr_writer *writer, struct jdr_writer_state *state);

#endif
