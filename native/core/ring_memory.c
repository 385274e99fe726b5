/*
 * ring_memory.c: the memory of a ring: valid sizes, where its parts lie, and how it begins. Also makes a ring in the
 * memory of this process.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "ring_shared.h"

#define HUGE_PAGE (2u << 20)

_Static_assert(sizeof(struct jdr_ring_shared) <= JDR_BLOCK, "the header of a ring's file is one block");
_Static_assert(offsetof(struct jdr_ring_shared, clock) == JDR_RING_HEADER_BYTES, "version 1 ends where it did");
_Static_assert(sizeof(struct jdr_claim) <= sizeof((struct jdr_record){0}.reserved),
               "a claim fits into the reserved bytes");

/* ---- layout ----------------------------------------------------------------------------------------------------- */

static bool power_of_two(uint64_t value)
{
    return value && !(value & (value - 1));
}

static uint64_t record_bytes_limit(uint64_t payload_bytes)
{
    return payload_bytes / 2 < JDR_RECORD_BYTES_MAX ? payload_bytes / 2 : JDR_RECORD_BYTES_MAX;
}

bool jdr_ring_valid_options(const struct jdr_ring_options *options)
{
    return power_of_two(options->payload_bytes) && options->payload_bytes >= (64u << 10) &&
           options->payload_bytes <= (1ull << 40) && power_of_two(options->slots) && options->slots >= 16 &&
           options->slots <= (1u << 22) && options->lsn_next >= 1 &&
           options->record_bytes_max <= record_bytes_limit(options->payload_bytes);
}

/* Header, slots and ends come first. The payload begins at a huge page. */
static uint64_t payload_offset(uint64_t slot_count)
{
    uint64_t end = JDR_BLOCK + slot_count * (sizeof(struct jdr_record) + sizeof(uint64_t));
    return (end + HUGE_PAGE - 1) & ~(uint64_t)(HUGE_PAGE - 1);
}

uint64_t jdr_ring_memory_bytes(uint64_t slot_count, uint64_t payload_bytes)
{
    return payload_offset(slot_count) + payload_bytes;
}

/* Where the parts of a ring with `slot_count` and `payload_bytes` lie in its memory. */
void jdr_ring_lay_out(struct jdr_ring *ring, void *memory)
{
    uint8_t *base = memory;
    ring->shared = memory;
    ring->slots = (struct jdr_record *)(base + JDR_BLOCK);
    ring->ends = (_Atomic uint64_t *)(ring->slots + ring->slot_count);
    ring->payload = base + payload_offset(ring->slot_count);
    ring->nap_bytes = ring->payload_bytes / 8 < (4u << 20) ? ring->payload_bytes / 8 : 4u << 20;
    ring->map_bytes = jdr_ring_memory_bytes(ring->slot_count, ring->payload_bytes);
}

/* ---- in memory of this process ---------------------------------------------------------------------------------- */

/*
 * Memory in huge pages where the kernel has them. A device that reads payloads directly then gets few long pieces
 * instead of many short ones, which is worth a third of a fast log's speed.
 */
static void *map_anonymous(uint64_t bytes)
{
    uint8_t *base = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    uint8_t *memory = (uint8_t *)(((uintptr_t)base + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    if (memory > base)
        munmap(base, (size_t)(memory - base));
    if (memory < base + HUGE_PAGE)
        munmap(memory + bytes, (size_t)(base + HUGE_PAGE - memory));
    madvise(memory, bytes, MADV_HUGEPAGE); /* if it can */
    madvise(memory, bytes, MADV_DONTFORK); /* what a child wrote here would reach no log */
    memset(memory, 0, bytes);              /* so that no guest's write has to wait for a page */
    return memory;
}

/* Begin empty: the next record has LSN lsn_next. */
void jdr_ring_begin(struct jdr_ring *ring, const struct jdr_ring_options *options)
{
    struct jdr_ring_shared *shared = ring->shared;
    uint64_t lsn = options->lsn_next - 1;
    atomic_store(&ring->ends[lsn & (ring->slot_count - 1)], 0);
    shared->lsn_reserved = shared->lsn_durable = shared->lsn_released = shared->lsn_applied = shared->lsn_in_primaries =
        lsn;
    shared->sync_wanted = shared->lsn_written = lsn;
    if (options->time_ns_last > shared->time_ns_last)
        shared->time_ns_last = options->time_ns_last;
    if (!shared->clock.followed_ns)
        shared->clock.begun_after_ns = options->time_ns_last;
    shared->record_bytes_max = options->record_bytes_max ? options->record_bytes_max
                                                         : record_bytes_limit(ring->payload_bytes);
}

static void init_private_locks(struct jdr_ring_shared *shared)
{
    pthread_mutexattr_t adaptive;
    pthread_mutexattr_init(&adaptive);
    pthread_mutexattr_settype(&adaptive, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&shared->reserve, &adaptive);
    pthread_mutexattr_destroy(&adaptive);
    pthread_mutex_init(&shared->gate, NULL);
}

int jdr_ring_create(jdr_ring **out, const struct jdr_ring_options *options)
{
    if (!jdr_ring_valid_options(options) || options->write_back)
        return -EINVAL;
    jdr_ring *ring = calloc(1, sizeof *ring);
    void *memory = map_anonymous(jdr_ring_memory_bytes(options->slots, options->payload_bytes));
    if (!ring || !memory) {
        if (memory)
            munmap(memory, jdr_ring_memory_bytes(options->slots, options->payload_bytes));
        free(ring);
        return -ENOMEM;
    }
    ring->fd = -1;
    ring->slot_count = options->slots;
    ring->payload_bytes = options->payload_bytes;
    ring->record_bytes_given = options->record_bytes_max;
    ring->clock = options->clock;
    jdr_ring_lay_out(ring, memory);
    init_private_locks(ring->shared);
    jdr_ring_begin(ring, options);
    *out = ring;
    return 0;
}

void jdr_ring_destroy(jdr_ring *ring)
{
    if (!ring)
        return;
    munmap(ring->shared, ring->map_bytes);
    if (ring->fd >= 0)
        close(ring->fd); /* and give the side back */
    free(ring);
}
