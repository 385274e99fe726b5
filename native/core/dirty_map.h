/*
 * dirty_map.h: which regions of a disk may differ between primary and replica.
 *
 * ---- THE PROBLEM ------------------------------------------------------------------------------------------------
 *
 * After a crash, primary and log differ in what was in flight, and nobody remembers where that was. So all of the disk
 * had to be copied. The map remembers. A region's bit is durable in the sidecar before the first write to the region
 * reaches the primary. It stays set while the region is in use, so a guest that writes within its working set pays one
 * atomic load. It is cleared later, when nothing there can differ any more.
 *
 * ---- WHAT A BIT MEANS -------------------------------------------------------------------------------------------
 *
 * A set bit means that the region may differ between the primary and the log, as both would be after a power loss now.
 *
 * Write-through: the primary comes first. Every change is marked before it reaches the primary. The log may lack it
 * (the process is killed before the record is in the log), and the primary may lose it (a power loss before its flush)
 * while the log has it. A bit therefore stays until the record is durable in the log *and* the primary was flushed
 * after the write.
 *
 * Write-back: the log comes first. The applier gives a primary only what is durable in the log, and the log keeps that
 * until it is durable in the primary. A replay makes them equal, so such a change needs no mark. What does are changes
 * that the log may lack: those that bypass the log, and those that the applier takes from the ring before they are
 * durable, because logging is off.
 *
 * With logging off, a write has no record. Its region is *owed* a copy.
 *
 * ---- THE STATE OF A REGION --------------------------------------------------------------------------------------
 *
 *    JDR_REGION_MARKED   the bit is durable in the sidecar, or the map has failed and is kept in memory alone
 *    JDR_REGION_WANTED   a writer waits until the bit is durable
 *    JDR_REGION_YOUNG    written to since the present pass began
 *    JDR_REGION_OWED     only a copy makes primary and log equal
 *
 * A region becomes owed when an opening finds its bit after a crash, when a write to it bypasses the log, and when a
 * write failed and what it left could not be logged. It is owed no more when a copy of all of it was logged with its
 * range held. From then on it is like any region that was written to.
 *
 * ---- WHEN A BIT IS CLEARED --------------------------------------------------------------------------------------
 *
 * A pass clears many bits at once (jdr_filter_tend_map):
 *
 *    1  logging is on
 *    2  no region is YOUNG any more
 *    3  a region in which a range is held is YOUNG
 *    4  lsn = the last LSN given out
 *       ... seconds go by. A write marks its region YOUNG ...
 *    5  the log is durable up to lsn, and logging was never off meanwhile
 *    6  the primary is flushed
 *    7  a region that is MARKED and neither WANTED, YOUNG nor OWED is cleared, in one atomic step
 *    8  its block is written, without a flush
 *
 * A write to a region that step 7 clears did not begin after step 2, or the region would be YOUNG. So the writer had
 * found the region YOUNG before step 2, and held its range then. Its range was no longer held at step 3, or the region
 * would be YOUNG as well. So the write had ended before step 4: its record has an LSN of at most `lsn`, which is
 * durable by step 5, and the flush of step 6 began after it. A record that was given an LSN is lost only if the ring is
 * emptied, which needs logging off: step 5.
 *
 * What step 8 wrote may become durable at any time, or never. Both are right, because the region was equal before. A
 * later write finds the region unmarked, and waits for a flush of its own.
 *
 * The first write to a region and the clearing of another in the same block write the same bytes. So one thread at a
 * time writes to the sidecar (`busy`), and each block is composed from the states just before it is written.
 *
 * ---- OLDER COPIES -----------------------------------------------------------------------------------------------
 *
 * Within one generation, log, disk and sidecar may each be set back to an earlier state, alone or together, and each is
 * sound in itself. A log that was set back lacks records for which bits were cleared: each block says up to which LSN
 * it relies on the log. A sidecar that was set back, alone or with its disk, is older than the log's last record, for
 * while records are appended, it is noted every few seconds that the map is kept (alive_ns). A disk that was changed by
 * others, or whose sidecar was set back, has a change time after that note.
 *
 * ---- A DISK THAT A HOST COMPONENT SERVES -------------------------------------------------------------------------
 *
 * Host component and DRVA are two processes, and each may be killed alone. The map lives where the writes are, in the
 * host component, and all that it needs to know of the log is in the ring: the last LSN, what is durable, and how often
 * logging went off. A DRVA that is dead makes nothing durable, so nothing is cleared. A ring that is lost takes records
 * with it that were never durable, so their regions are still marked.
 *
 * While logging is off, a write that bypasses the log makes its region owed after the primary was changed, and with the
 * range held. The DRVA may switch logging on in between, and must not find that nothing is owed. So before it looks it
 * waits until no range is held any more that was held when logging came back (jdr_filter_settle).
 *
 * ---- WHEN THE SIDECAR FAILS -------------------------------------------------------------------------------------
 *
 * The guest goes on. The map is kept in memory alone, so a resync in this life still copies only what it must. The
 * sidecar is made unreadable as far as it can be written. If it cannot be written at all, the time at which it was last
 * known to be kept (alive_ns) stands still while the primary's file is changed, and the next opening believes no map
 * that is older than its disk.
 */
#ifndef JETDR_DIRTY_MAP_H
#define JETDR_DIRTY_MAP_H

#include "map_file.h"
#include "ranges.h"

enum {
    JDR_REGION_MARKED = 1,
    JDR_REGION_WANTED = 2,
    JDR_REGION_YOUNG = 4,
    JDR_REGION_OWED = 8,
};

struct jdr_map_pass {
    bool begun;
    uint64_t lsn, off_count;
};

struct jdr_dirty_map {
    uint32_t shift;
    _Atomic int failed;
    int64_t failed_since_ns;   /* guarded by the mutex */
    _Atomic uint8_t *states;   /* by region. MARKED, WANTED and OWED change with the mutex held */
    _Atomic uint32_t *regions; /* by block: how many are MARKED or WANTED */
    pthread_mutex_t mutex;     /* guards all below */
    pthread_cond_t moved;
    bool busy;                       /* a thread writes to the sidecar, without the mutex */
    bool *unwritten;                 /* by block */
    bool unsynced;                   /* something was written since the last flush began */
    uint64_t batch_next, batch_done; /* a batch of bits is durable at once */
    uint64_t intents;
    uint64_t copied_to;      /* the first part of a region was copied up to here. 0: of none */
    uint64_t lsn_alive;      /* the last LSN given out when alive_ns was noted */
    bool touched;            /* a write came since */
    pthread_mutex_t tending; /* held by who makes a pass */
    struct jdr_map_pass pass;
    int primary_fd;
    struct jdr_map_file file; /* its buffer and superblock are the writer's */
};

static inline uint64_t jdr_map_block(uint64_t region)
{
    return region / JDR_MAP_BLOCK_REGIONS;
}

/* The region after the last one of a block. */
static inline uint64_t jdr_map_end_of(const jdr_dirty_map *map, uint64_t block)
{
    uint64_t end = (block + 1) * JDR_MAP_BLOCK_REGIONS;
    return end < map->file.regions ? end : map->file.regions;
}

static inline uint8_t jdr_map_state_of(const jdr_dirty_map *map, uint64_t region)
{
    return atomic_load_explicit(&map->states[region], memory_order_acquire);
}

/* A write to regions of which at least one is not MARKED and YOUNG: returns when all their bits are durable. */
void jdr_dirty_map_intend(jdr_dirty_map *map, uint64_t first, uint64_t last);

/* A held range is about to be changed in the primary: its regions' bits are durable at return. */
static inline void jdr_dirty_map_touch(jdr_dirty_map *map, uint64_t offset, uint64_t length)
{
    const uint8_t in_use = JDR_REGION_MARKED | JDR_REGION_YOUNG;
    uint64_t last = (offset + length - 1) >> map->shift;
    for (uint64_t region = offset >> map->shift; region <= last; region++)
        if ((atomic_load_explicit(&map->states[region], memory_order_acquire) & in_use) != in_use) {
            jdr_dirty_map_intend(map, region, last);
            return;
        }
}

/* Does the file system say, or not deny, that [begin, end) of the primary has data? */
bool jdr_dirty_map_has_data(const jdr_dirty_map *map, uint64_t begin, uint64_t end);
/* All of a range was logged as background data. The range is still held. */
void jdr_dirty_map_copied(jdr_dirty_map *map, uint64_t offset, uint64_t length);
/* The primary has lost what it had not flushed, wherever that was: owe all marked regions a copy. */
void jdr_dirty_map_owe_marked(jdr_dirty_map *map);

/* Steps 1 to 4 of a pass. The caller of these three holds `tending`. */
void jdr_dirty_map_begin_pass(jdr_dirty_map *map, struct jdr_ranges *ranges, const jdr_ring *ring);
/* Step 5, and whether there is anything to be cleared. */
bool jdr_dirty_map_may_clear(const jdr_dirty_map *map, jdr_ring *ring);
/* Steps 7 and 8. */
void jdr_dirty_map_clear(jdr_dirty_map *map);
/* Note that the map is kept, if that was not noted recently, and the log or the disk went on. */
void jdr_dirty_map_note_alive(jdr_dirty_map *map, const jdr_ring *ring);

#endif
