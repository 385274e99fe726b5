/* dirty_map.c: see dirty_map.h. */
#include "dirty_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "ring.h"

#define ALIVE_NS 10000000000ll       /* how often it is noted that the map is kept */
#define ALIVE_LIMIT_NS 60000000000ll /* a primary that was changed so long after that note was changed by others */

static int64_t utc_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* With the mutex held: the region counts as marked from now on. `bits` are MARKED or WANTED. */
static void add_mark(jdr_dirty_map *map, uint64_t region, uint8_t bits)
{
    if (!(atomic_fetch_or(&map->states[region], bits) & (JDR_REGION_MARKED | JDR_REGION_WANTED)))
        atomic_fetch_add(&map->regions[jdr_map_block(region)], 1);
}

/* ---- writing to the sidecar: one thread at a time --------------------------------------------------------------- */

/* With the mutex held, which is given up while another thread writes. */
static void take_file(jdr_dirty_map *map)
{
    while (map->busy)
        jdr_wait_until(&map->moved, &map->mutex, INT64_MAX);
    map->busy = true;
}

static void give_file(jdr_dirty_map *map)
{
    map->busy = false;
    pthread_cond_broadcast(&map->moved);
}

/* With the mutex held: the bits of a block as the states are now. */
static void compose(jdr_dirty_map *map, uint64_t block)
{
    uint8_t *bits = map->file.buffer.bits;
    uint64_t begin = block * JDR_MAP_BLOCK_REGIONS, end = jdr_map_end_of(map, block);
    map->file.buffer.lsn = map->file.lsn;
    memset(bits, 0, JDR_MAP_BITS_BYTES);
    if (atomic_load(&map->regions[block]) == 0)
        return;
    for (uint64_t region = begin; region < end; region++)
        if (jdr_map_state_of(map, region) & (JDR_REGION_MARKED | JDR_REGION_WANTED))
            bits[(region - begin) / 8] |= (uint8_t)(1u << ((region - begin) % 8));
}

/* With the mutex held, which is given up during the I/O, and as the writer. Returns blocks written, or -errno. */
static int64_t write_unwritten(jdr_dirty_map *map)
{
    int64_t written = 0;
    for (uint64_t block = 0; block < map->file.blocks; block++) {
        if (!map->unwritten[block])
            continue;
        map->unwritten[block] = false;
        compose(map, block);
        pthread_mutex_unlock(&map->mutex);
        int result = jdr_map_file_write_block(&map->file, block);
        pthread_mutex_lock(&map->mutex);
        if (result)
            return result;
        map->unsynced = true;
        written++;
    }
    return written;
}

/*
 * With the mutex held, which is given up during the I/O, and as the writer. Writes go on without their bits only once
 * nobody would believe the sidecar, which lacks them.
 */
static void fail(jdr_dirty_map *map, int error)
{
    if (map->failed)
        return;
    pthread_mutex_unlock(&map->mutex);
    jdr_map_file_invalidate(&map->file);
    pthread_mutex_lock(&map->mutex);
    map->failed_since_ns = utc_ns();
    map->failed = error < 0 ? -error : EIO;
}

/* With the mutex held, which is given up during the I/O. All bits that were wanted at the call are durable at return.
 */
static void write_batch(jdr_dirty_map *map)
{
    take_file(map);
    uint64_t batch = map->batch_next++;
    int64_t result = map->failed ? 0 : write_unwritten(map);
    if (result >= 0 && map->unsynced && !map->failed) { /* a clearing may have written our bits without a flush */
        map->unsynced = false;
        pthread_mutex_unlock(&map->mutex);
        result = jdr_map_file_sync(&map->file);
        pthread_mutex_lock(&map->mutex);
        map->intents++;
    }
    if (result < 0)
        fail(map, (int)result);
    map->batch_done = batch;
    give_file(map);
}

/* ---- marking ---------------------------------------------------------------------------------------------------- */

/* With the mutex held: is the bit not durable yet? It is then wanted. */
static bool want(jdr_dirty_map *map, uint64_t region)
{
    if (atomic_fetch_or(&map->states[region], JDR_REGION_YOUNG) & JDR_REGION_MARKED)
        return false;
    if (!(jdr_map_state_of(map, region) & JDR_REGION_WANTED)) {
        add_mark(map, region, JDR_REGION_WANTED);
        map->unwritten[jdr_map_block(region)] = true;
    }
    return true;
}

/* With the mutex held, which is given up during the I/O. One thread makes the bits of all that wait durable. */
static void mark(jdr_dirty_map *map, uint64_t first, uint64_t last)
{
    bool cold = false;
    for (uint64_t region = first; region <= last; region++)
        cold |= want(map, region);
    map->touched = true;
    if (!cold)
        return;
    uint64_t batch = map->batch_next; /* one that is being written may have passed by our blocks */
    while (map->batch_done < batch && !map->failed) {
        if (map->busy)
            jdr_wait_until(&map->moved, &map->mutex, INT64_MAX);
        else
            write_batch(map);
    }
    for (uint64_t region = first; region <= last; region++) {
        add_mark(map, region, JDR_REGION_MARKED | JDR_REGION_YOUNG);
        atomic_fetch_and(&map->states[region], (uint8_t)~JDR_REGION_WANTED);
    }
}

void jdr_dirty_map_intend(jdr_dirty_map *map, uint64_t first, uint64_t last)
{
    pthread_mutex_lock(&map->mutex);
    mark(map, first, last);
    pthread_mutex_unlock(&map->mutex);
}

/* ---- what is owed ----------------------------------------------------------------------------------------------- */

void jdr_dirty_map_owe(jdr_dirty_map *map, uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> map->shift, last = (offset + length - 1) >> map->shift;
    pthread_mutex_lock(&map->mutex);
    mark(map, first, last);
    for (uint64_t region = first; region <= last; region++)
        atomic_fetch_or(&map->states[region], JDR_REGION_OWED);
    if (map->copied_to && map->copied_to >> map->shift >= first && map->copied_to >> map->shift <= last)
        map->copied_to = 0; /* the copied part may have changed since */
    pthread_mutex_unlock(&map->mutex);
}

void jdr_dirty_map_owe_marked(jdr_dirty_map *map)
{
    pthread_mutex_lock(&map->mutex);
    for (uint64_t block = 0; block < map->file.blocks; block++)
        for (uint64_t region = block * JDR_MAP_BLOCK_REGIONS;
             map->regions[block] && region < jdr_map_end_of(map, block); region++)
            if (jdr_map_state_of(map, region) & (JDR_REGION_MARKED | JDR_REGION_WANTED))
                atomic_fetch_or(&map->states[region], JDR_REGION_OWED);
    map->copied_to = 0;
    pthread_mutex_unlock(&map->mutex);
}

void jdr_dirty_map_copied(jdr_dirty_map *map, uint64_t offset, uint64_t length)
{
    uint64_t region_bytes = 1ull << map->shift, end = offset + length;
    pthread_mutex_lock(&map->mutex);
    bool goes_on = map->copied_to == offset && offset % region_bytes; /* the part before was copied just now */
    uint64_t begin = goes_on ? offset - offset % region_bytes : offset;
    uint64_t first = (begin + region_bytes - 1) >> map->shift;
    uint64_t after = end == map->file.size_bytes ? map->file.regions : end >> map->shift;
    for (uint64_t region = first; region < after; region++) {
        atomic_fetch_or(&map->states[region], JDR_REGION_YOUNG); /* first: the present pass must not clear it */
        atomic_fetch_and(&map->states[region], (uint8_t)~JDR_REGION_OWED);
    }
    bool in_part = after < map->file.regions && end % region_bytes && first <= after;
    map->copied_to = in_part ? end : 0;
    pthread_mutex_unlock(&map->mutex);
}

/* ---- clearing --------------------------------------------------------------------------------------------------- */

void jdr_dirty_map_clear(jdr_dirty_map *map)
{
    pthread_mutex_lock(&map->mutex);
    if (map->file.lsn < map->pass.lsn)
        map->file.lsn = map->pass.lsn; /* first: another thread may be the one that writes what is cleared below */
    for (uint64_t block = 0; block < map->file.blocks; block++)
        for (uint64_t region = block * JDR_MAP_BLOCK_REGIONS;
             map->regions[block] && region < jdr_map_end_of(map, block); region++) {
            uint8_t only_marked = JDR_REGION_MARKED;
            if (!atomic_compare_exchange_strong(&map->states[region], &only_marked, 0))
                continue;
            atomic_fetch_sub(&map->regions[block], 1);
            map->unwritten[block] = true;
        }
    take_file(map);
    int64_t written = map->failed ? 0 : write_unwritten(map);
    if (written < 0)
        fail(map, (int)written);
    give_file(map);
    pthread_mutex_unlock(&map->mutex);
}

/* ---- the superblock --------------------------------------------------------------------------------------------- */

/* With the mutex held, which is given up during the I/O, and as the writer. */
static int write_superblock(jdr_dirty_map *map)
{
    if (map->failed)
        return -map->failed;
    map->file.super.alive_ns = utc_ns();
    pthread_mutex_unlock(&map->mutex);
    int result = jdr_map_file_write_superblock(&map->file);
    pthread_mutex_lock(&map->mutex);
    if (result)
        fail(map, result);
    return result;
}

void jdr_dirty_map_note_alive(jdr_dirty_map *map, const jdr_ring *ring)
{
    uint64_t lsn = jdr_ring_lsn_reserved(ring);
    pthread_mutex_lock(&map->mutex);
    bool goes_on = map->touched || lsn != map->lsn_alive;
    if (goes_on && !map->failed && utc_ns() - map->file.super.alive_ns >= ALIVE_NS) {
        take_file(map);
        map->touched = false;
        map->lsn_alive = lsn;
        write_superblock(map);
        give_file(map);
    }
    pthread_mutex_unlock(&map->mutex);
}

int jdr_dirty_map_go_on(jdr_dirty_map *map, uint64_t section_id, uint64_t timeline,
                        const struct jdr_generation *generation)
{
    pthread_mutex_lock(&map->mutex);
    take_file(map);
    map->file.super.identity.section_id = section_id;
    map->file.super.identity.timeline = timeline;
    map->file.super.generation = *generation;
    int result = write_superblock(map);
    give_file(map);
    pthread_mutex_unlock(&map->mutex);
    return result;
}

static void look_at_primary(const jdr_dirty_map *map, uint64_t *inode, int64_t *ctime_ns)
{
    struct stat status;
    bool is_file = map->primary_fd >= 0 && fstat(map->primary_fd, &status) == 0 && S_ISREG(status.st_mode);
    *inode = is_file ? status.st_ino : 0;
    *ctime_ns = is_file ? status.st_ctim.tv_sec * 1000000000ll + status.st_ctim.tv_nsec : 0;
}

int jdr_dirty_map_end(jdr_dirty_map *map)
{
    pthread_mutex_lock(&map->mutex);
    take_file(map);
    map->file.super.use = JDR_MAP_CLOSED;
    look_at_primary(map, &map->file.super.inode, &map->file.super.ctime_ns);
    int result = write_superblock(map);
    give_file(map);
    pthread_mutex_unlock(&map->mutex);
    return result;
}

void jdr_dirty_map_give_up(jdr_dirty_map *map)
{
    pthread_mutex_lock(&map->mutex);
    take_file(map);
    fail(map, -ESTALE);
    give_file(map);
    pthread_mutex_unlock(&map->mutex);
}

/* ---- begin ------------------------------------------------------------------------------------------------------ */

/* May the primary have been changed by others since the map was last kept? */
static enum jdr_map_found check_primary(const jdr_dirty_map *map)
{
    const struct jdr_map_superblock *super = &map->file.super;
    uint64_t inode;
    int64_t ctime_ns;
    look_at_primary(map, &inode, &ctime_ns);
    if (inode != super->inode)
        return JDR_MAP_REPLACED;
    if (super->use == JDR_MAP_CLOSED)
        return ctime_ns == super->ctime_ns ? JDR_MAP_BELIEVED : JDR_MAP_CHANGED;
    return ctime_ns - super->alive_ns <= ALIVE_LIMIT_NS ? JDR_MAP_BELIEVED : JDR_MAP_CHANGED;
}

static bool same_generation(const struct jdr_generation *one, const struct jdr_generation *other)
{
    return one->epoch == other->epoch && memcmp(one->nonce, other->nonce, sizeof one->nonce) == 0;
}

/* Take over the bits of a block: what they say is owed a copy. */
static void take_bits(jdr_dirty_map *map, uint64_t block)
{
    const uint8_t *bits = map->file.buffer.bits;
    map->unwritten[block] = map->file.copies_differ; /* a bit counts as durable if both copies have it */
    uint64_t begin = block * JDR_MAP_BLOCK_REGIONS;
    for (uint64_t region = begin; region < jdr_map_end_of(map, block); region++)
        if (bits[(region - begin) / 8] & (1u << ((region - begin) % 8)))
            add_mark(map, region, JDR_REGION_MARKED | JDR_REGION_OWED);
}

static enum jdr_map_found read_map(jdr_dirty_map *map, const struct jdr_map_options *options)
{
    enum jdr_map_found found = map->failed ? JDR_MAP_NONE : jdr_map_file_read(&map->file, &options->identity);
    if (found == JDR_MAP_BELIEVED && !same_generation(&map->file.super.generation, &options->earlier))
        found = JDR_MAP_STALE;
    if (found == JDR_MAP_BELIEVED)
        found = check_primary(map);
    if (found == JDR_MAP_BELIEVED && options->log_time_ns - map->file.super.alive_ns > ALIVE_LIMIT_NS)
        found = JDR_MAP_OLDER;
    for (uint64_t block = 0; found == JDR_MAP_BELIEVED && block < map->file.blocks; block++) {
        if (jdr_map_file_read_block(&map->file, block))
            take_bits(map, block);
        else
            found = JDR_MAP_DAMAGED;
    }
    return found == JDR_MAP_BELIEVED && map->file.lsn > options->log_lsn ? JDR_MAP_LOG_OLDER : found;
}

/* A map of its own in the sidecar. Blocks of an earlier one, whose superblock is still there, say nothing of it. */
static void begin_anew(jdr_dirty_map *map, bool owed)
{
    struct jdr_map_superblock *super = &map->file.super;
    uint64_t sequence = super->sequence;
    *super = (struct jdr_map_superblock){.sequence = sequence};
    map->file.lsn = 0;
    if (getrandom(super->map_id, sizeof super->map_id, 0) != sizeof super->map_id)
        fail(map, -EIO);
    for (uint64_t region = 0; region < map->file.regions; region++) {
        map->states[region] = 0;
        if (owed)
            map->states[region] = JDR_REGION_MARKED | JDR_REGION_OWED;
    }
    for (uint64_t block = 0; block < map->file.blocks; block++) {
        map->regions[block] = owed ? (uint32_t)(jdr_map_end_of(map, block) - block * JDR_MAP_BLOCK_REGIONS) : 0;
        map->unwritten[block] = true;
    }
}

static void begin_superblock(jdr_dirty_map *map, const struct jdr_map_identity *identity,
                             const struct jdr_generation *generation)
{
    struct jdr_map_superblock *super = &map->file.super;
    memcpy(super->magic, JDR_MAP_MAGIC, sizeof super->magic);
    super->version = JDR_MAP_VERSION;
    super->shift = map->shift;
    super->identity = *identity;
    super->generation = *generation;
    super->use = JDR_MAP_IN_USE;
    look_at_primary(map, &super->inode, &super->ctime_ns);
    super->ctime_ns = 0;
    write_superblock(map); /* syncs first: bits that were read from the cache are durable from now on */
}

static jdr_dirty_map *allocate(const struct jdr_device *sidecar, uint64_t size_bytes)
{
    jdr_dirty_map *map = calloc(1, sizeof *map);
    if (!map)
        return NULL;
    pthread_mutex_init(&map->mutex, NULL);
    pthread_mutex_init(&map->tending, NULL);
    pthread_cond_init(&map->moved, NULL);
    static const struct jdr_device none;
    jdr_map_file_init(&map->file, sidecar ? sidecar : &none, size_bytes);
    map->failed = sidecar ? 0 : ENODEV;
    map->shift = map->file.shift;
    map->batch_next = 1;
    map->states = calloc(map->file.regions, sizeof *map->states);
    map->regions = calloc(map->file.blocks, sizeof *map->regions);
    map->unwritten = calloc(map->file.blocks, sizeof *map->unwritten);
    if (map->states && map->regions && map->unwritten)
        return map;
    jdr_dirty_map_destroy(map);
    return NULL;
}

int jdr_dirty_map_begin(jdr_dirty_map **out, const struct jdr_device *sidecar, const struct jdr_map_options *options,
                        enum jdr_map_found *found)
{
    jdr_dirty_map *map = allocate(sidecar, options->identity.size_bytes);
    if (!map)
        return -ENOMEM;
    map->primary_fd = options->primary_fd;
    *found = options->start == JDR_MAP_MARKED ? read_map(map, options) : JDR_MAP_BELIEVED;
    pthread_mutex_lock(&map->mutex);
    map->busy = true;
    if (options->start != JDR_MAP_MARKED || *found != JDR_MAP_BELIEVED)
        begin_anew(map, options->start != JDR_MAP_AGREES);
    int64_t written = map->failed ? 0 : write_unwritten(map);
    if (written < 0)
        fail(map, (int)written);
    begin_superblock(map, &options->identity, &options->generation);
    give_file(map);
    pthread_mutex_unlock(&map->mutex);
    *out = map;
    return 0;
}

/* Take over the states of a smaller map. A region counts as owed if it has data that the smaller disk had not. */
static void take_states(jdr_dirty_map *map, const jdr_dirty_map *smaller)
{
    for (uint64_t region = 0; region < map->file.regions; region++) {
        uint64_t begin = region << map->shift, end = begin + (1ull << map->shift), size = smaller->file.size_bytes;
        uint8_t state = end > size && jdr_dirty_map_has_data(map, begin > size ? begin : size, end)
                            ? JDR_REGION_MARKED | JDR_REGION_OWED
                            : 0;
        for (uint64_t at = begin; at < end && at < size; at += 1ull << smaller->shift)
            state |= jdr_map_state_of(smaller, at >> smaller->shift);
        if (state & (JDR_REGION_MARKED | JDR_REGION_WANTED))
            add_mark(map, region, JDR_REGION_MARKED | JDR_REGION_YOUNG | (state & JDR_REGION_OWED));
    }
}

int jdr_dirty_map_grow(jdr_dirty_map **out, const struct jdr_device *sidecar, jdr_dirty_map *smaller,
                       uint64_t size_bytes)
{
    struct jdr_map_identity identity = smaller->file.super.identity;
    identity.size_bytes = size_bytes;
    jdr_dirty_map *map = allocate(sidecar, size_bytes);
    if (!map)
        return -ENOMEM;
    map->primary_fd = smaller->primary_fd;
    pthread_mutex_lock(&map->mutex);
    map->busy = true;
    begin_anew(map, false);
    pthread_mutex_lock(&smaller->mutex);
    map->file.lsn = smaller->file.lsn; /* what is not marked relies on the log up to there */
    take_states(map, smaller);
    pthread_mutex_unlock(&smaller->mutex);
    int64_t written = map->failed ? 0 : write_unwritten(map);
    if (written < 0)
        fail(map, (int)written);
    begin_superblock(map, &identity, &smaller->file.super.generation);
    give_file(map);
    pthread_mutex_unlock(&map->mutex);
    *out = map;
    return 0;
}

void jdr_dirty_map_destroy(jdr_dirty_map *map)
{
    if (!map)
        return;
    free((void *)map->states);
    free((void *)map->regions);
    free(map->unwritten);
    pthread_mutex_destroy(&map->mutex);
    pthread_mutex_destroy(&map->tending);
    pthread_cond_destroy(&map->moved);
    free(map);
}
