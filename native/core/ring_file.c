/*
 * ring_file.c: a ring in a file on tmpfs that host component and DRVA share: laying it out, taking a side, and going on
 * after a process has died. docs/formats/ring.md
 *
 * Invariants: a side is a lock on one byte of the file. The kernel gives the lock back when the process ends, so a
 * side's life is never guessed from a pid. Nothing in the file is believed before it was checked.
 */
#include "ring_shared.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <xxhash.h>

#define RING_MAGIC "JETDRRNG"
#define RING_VERSION 1

/* ---- laying out ------------------------------------------------------------------------------------------------- */

/* In any other file system the kernel would write the ring's pages to a disk, and guests would wait for that. */
static bool is_memory_file(int fd)
{
    struct statfs info;
    return fstatfs(fd, &info) == 0 && (info.f_type == TMPFS_MAGIC || info.f_type == HUGETLBFS_MAGIC);
}

static void init_shared_lock(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t robust;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setpshared(&robust, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &robust);
    pthread_mutexattr_destroy(&robust);
}

static uint64_t header_checksum(const struct jdr_ring_shared *shared)
{
    return XXH3_64bits(shared, offsetof(struct jdr_ring_shared, checksum));
}

/* Map the file as a ring. Its size has been checked. */
static int map_ring(jdr_ring *ring, int fd)
{
    uint64_t bytes = jdr_ring_memory_bytes(ring->slot_count, ring->payload_bytes);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    madvise(memory, bytes, MADV_DONTFORK);
    madvise(memory, bytes, MADV_HUGEPAGE); /* if it can */
    jdr_ring_lay_out(ring, memory);
    return 0;
}

static void fill_header(struct jdr_ring_shared *shared, const struct jdr_ring_options *options, const uint8_t *domain)
{
    memcpy(shared->magic, RING_MAGIC, sizeof shared->magic);
    memcpy(shared->domain, domain, sizeof shared->domain);
    shared->version = RING_VERSION;
    shared->header_bytes = JDR_RING_HEADER_BYTES;
    shared->slot_count = options->slots;
    shared->payload_bytes = options->payload_bytes;
    shared->write_back = options->write_back;
    shared->host_ended = 1;
    init_shared_lock(&shared->reserve);
    init_shared_lock(&shared->gate);
    shared->checksum = header_checksum(shared);
}

int jdr_ring_format(int fd, const struct jdr_ring_options *options, const uint8_t domain[16])
{
    struct stat info;
    if (!jdr_ring_valid_options(options) || options->clock)
        return -EINVAL;
    if (fstat(fd, &info))
        return -errno;
    if (info.st_size)
        return -EINVAL;
    if (!is_memory_file(fd))
        return -EMEDIUMTYPE;
    int result = -posix_fallocate(fd, 0, (off_t)jdr_ring_memory_bytes(options->slots, options->payload_bytes));
    if (result)
        return result;
    jdr_ring ring = {.slot_count = options->slots, .payload_bytes = options->payload_bytes};
    if ((result = map_ring(&ring, fd)))
        return result;
    jdr_ring_begin(&ring, options);
    fill_header(ring.shared, options, domain);
    munmap(ring.shared, ring.map_bytes);
    return 0;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static bool valid_geometry(const struct jdr_ring_shared *header, uint64_t file_bytes)
{
    struct jdr_ring_options options = {.slots = header->slot_count,
                                       .payload_bytes = header->payload_bytes,
                                       .lsn_next = 1};
    return header->header_bytes == JDR_RING_HEADER_BYTES && jdr_ring_valid_options(&options) &&
           file_bytes == jdr_ring_memory_bytes(header->slot_count, header->payload_bytes);
}

static int check_file(int fd, const uint8_t *domain, struct jdr_ring_shared *header)
{
    struct stat info;
    if (fstat(fd, &info))
        return -errno;
    if (!S_ISREG(info.st_mode))
        return -EBADMSG;
    ssize_t count = pread(fd, header, sizeof *header, 0);
    if (count < 0)
        return -errno;
    if (count != sizeof *header || memcmp(header->magic, RING_MAGIC, sizeof header->magic))
        return -EBADMSG;
    if ((info.st_mode & 077) || (geteuid() && info.st_uid != geteuid()))
        return -EACCES;
    if (header->version != RING_VERSION)
        return -EPROTONOSUPPORT;
    if (header->checksum != header_checksum(header) || !valid_geometry(header, (uint64_t)info.st_size))
        return -EBADMSG;
    return domain && memcmp(header->domain, domain, sizeof header->domain) ? -ESTALE : 0;
}

/* Do the counters that are believed from here on agree with each other? */
static bool valid_counters(const struct jdr_ring *ring)
{
    const struct jdr_ring_shared *shared = ring->shared;
    uint64_t head = shared->lsn_reserved, released = shared->lsn_released, applied = shared->lsn_applied;
    uint64_t tail = ring->write_back && applied < released ? applied : released;
    uint64_t bytes = jdr_end(ring, head) - jdr_end(ring, tail);
    return shared->resetting || (released <= head && applied <= head && head - tail < ring->slot_count &&
                                 bytes <= ring->payload_bytes && shared->record_bytes_max <= ring->payload_bytes / 2);
}

static struct flock side_lock(enum jdr_side side, short type)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)side, .l_len = 1};
}

static int take_side(int fd, enum jdr_side side)
{
    struct flock lock = side_lock(side, F_WRLCK);
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

/* Free the room that the last holder of the side had taken and not used. */
static void forget_producer(struct jdr_ring_shared *shared, enum jdr_side side)
{
    atomic_store(&shared->producers[side].admitted, 0);
    atomic_store(&shared->producers[side].queued, 0);
    jdr_futex_wake(&shared->space_seq);
}

static int begin_side(jdr_ring *ring)
{
    forget_producer(ring->shared, ring->side);
    atomic_fetch_add(&ring->shared->producers[ring->side].incarnation, 1);
    if (ring->side == JDR_HOST)
        atomic_store(&ring->shared->host_ended, 0);
    return 0;
}

/* Open the file again, so that the lock ends with our own open file and not with the caller's descriptor. */
static int reopen(int fd)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int own = open(path, O_RDWR | O_CLOEXEC);
    return own < 0 ? -errno : own;
}

static int open_ring(jdr_ring *ring, const uint8_t *domain)
{
    struct jdr_ring_shared header;
    int result = check_file(ring->fd, domain, &header);
    if (result || (result = take_side(ring->fd, ring->side)))
        return result;
    ring->slot_count = header.slot_count;
    ring->payload_bytes = header.payload_bytes;
    ring->write_back = header.write_back;
    if ((result = map_ring(ring, ring->fd)))
        return result;
    if (!valid_counters(ring)) {
        munmap(ring->shared, ring->map_bytes);
        return -EBADMSG;
    }
    return begin_side(ring);
}

int jdr_ring_open(jdr_ring **out, int fd, enum jdr_side side, const uint8_t domain[16])
{
    jdr_ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    ring->side = side;
    ring->fd = reopen(fd);
    int result = ring->fd < 0 ? ring->fd : open_ring(ring, domain);
    if (result) {
        if (ring->fd >= 0)
            close(ring->fd);
        free(ring);
        return result;
    }
    *out = ring;
    return 0;
}

/* ---- sides that are alive --------------------------------------------------------------------------------------- */

void jdr_ring_leave(jdr_ring *ring)
{
    struct flock lock = side_lock(ring->side, F_UNLCK);
    if (jdr_ring_in_file(ring))
        fcntl(ring->fd, F_OFD_SETLK, &lock);
}

void jdr_ring_end(jdr_ring *ring)
{
    if (ring->side == JDR_HOST)
        atomic_store(&ring->shared->host_ended, 1);
}

bool jdr_ring_side_alive(const jdr_ring *ring, enum jdr_side side)
{
    struct flock lock = side_lock(side, F_WRLCK);
    return side == ring->side || (fcntl(ring->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK);
}

bool jdr_ring_host_ended(const jdr_ring *ring)
{
    return !jdr_ring_side_alive(ring, JDR_HOST) && atomic_load(&ring->shared->host_ended);
}

bool jdr_ring_is_abandoned(const struct jdr_ring *ring, uint64_t lsn)
{
    struct jdr_claim claim;
    memcpy(&claim, jdr_slot(ring, lsn)->reserved, sizeof claim);
    if (!jdr_ring_in_file(ring) || claim.side_plus_1 < 1 || claim.side_plus_1 > 2)
        return false;
    enum jdr_side side = (enum jdr_side)(claim.side_plus_1 - 1);
    return claim.incarnation != atomic_load(&ring->shared->producers[side].incarnation) ||
           !jdr_ring_side_alive(ring, side);
}

bool jdr_ring_void_abandoned(struct jdr_ring *ring, uint64_t lsn)
{
    if (lsn > jdr_ring_lsn_reserved(ring) || jdr_published(ring, lsn) || !jdr_ring_is_abandoned(ring, lsn) ||
        jdr_published(ring, lsn)) /* published just before its producer died */
        return false;
    const struct jdr_record *slot = jdr_slot(ring, lsn);
    struct jdr_record empty = {.lsn = lsn, .time_ns = slot->time_ns, .disk = slot->disk, .kind = JDR_VOID};
    jdr_publish(ring, &empty);
    return true;
}

/* ---- the consumer begins ---------------------------------------------------------------------------------------- */

/* A dead host holds no room. A host that starts at this moment finds the side taken, and tries again. */
static void forget_dead_host(const jdr_ring *ring)
{
    if (take_side(ring->fd, JDR_HOST))
        return;
    forget_producer(ring->shared, JDR_HOST);
    struct flock lock = side_lock(JDR_HOST, F_UNLCK);
    fcntl(ring->fd, F_OFD_SETLK, &lock);
}

int jdr_ring_adopt(jdr_ring *ring, uint64_t lsn)
{
    struct jdr_ring_shared *shared = ring->shared;
    if (ring->side != JDR_DRVA || shared->resetting || lsn < shared->lsn_released || lsn > shared->lsn_reserved)
        return -ESTALE;
    forget_dead_host(ring);
    atomic_store(&shared->consumer_sleep, JDR_AWAKE);
    atomic_store(&shared->lsn_durable, lsn);
    atomic_store(&shared->lsn_written, lsn);
    jdr_release(ring, &shared->lsn_released, lsn);
    jdr_futex_wake(&shared->durable_seq);
    return 0;
}

/* With logging off, is no thread at work on slots and payloads? ring.c says why this is enough. */
static bool is_quiet(const jdr_ring *ring)
{
    const struct jdr_ring_shared *shared = ring->shared;
    uint64_t head = shared->lsn_reserved;
    if (atomic_load(&shared->producers[JDR_HOST].admitted))
        return false;
    if (jdr_ring_side_alive(ring, JDR_HOST) &&
        jdr_ring_primaries_lag(ring)) /* a flush in progress is about lsn_applied */
        return false;
    for (uint64_t lsn = shared->lsn_released + 1; lsn <= head; lsn++)
        if (!jdr_published(ring, lsn) && !jdr_ring_is_abandoned(ring, lsn))
            return false;
    return true;
}

int jdr_ring_reset(jdr_ring *ring, const struct jdr_ring_options *options)
{
    struct jdr_ring_shared *shared = ring->shared;
    struct jdr_ring_options whole = *options;
    whole.slots = ring->slot_count;
    whole.payload_bytes = ring->payload_bytes;
    if (ring->side != JDR_DRVA || jdr_ring_logging(ring) || !jdr_ring_valid_options(&whole))
        return -EINVAL;
    forget_dead_host(ring);
    if (!shared->resetting && !is_quiet(ring))
        return -EBUSY;
    atomic_store(&shared->resetting, 1);
    memset(ring->slots, 0, ring->slot_count * sizeof *ring->slots);
    jdr_ring_begin(ring, &whole);
    if (whole.time_ns_last && whole.time_ns_last < shared->off_since_ns)
        atomic_store(&shared->off_since_ns, whole.time_ns_last); /* what came later is forgotten now */
    atomic_store(&shared->resetting, 0);
    return 0;
}
