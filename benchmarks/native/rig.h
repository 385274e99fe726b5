/*
 * rig.h: what the benchmark programs share: time, memory and null devices, and a ring with a running log writer.
 *
 * Each program is a C caller of the engine (native/jetdr.h), compiled together with it. It prints one line of numbers
 * per round, which benchmarks/caller.py reads. A failed check ends the program with a message and status 1.
 */
#ifndef BENCHMARK_RIG_H
#define BENCHMARK_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "jetdr.h"

#define SLOTS (1u << 15)
#define STALL_LIMIT_NS 30000000000ll
#define SECTION_ID 0x5EC7ull
#define TRIM_US 10000

static inline void fail(const char *what, int64_t result)
{
    fprintf(stderr, "%s: %s\n", what, result < 0 ? strerror((int)-result) : "wrong bytes");
    exit(1);
}

static inline void check(const char *what, int64_t result)
{
    if (result < 0)
        fail(what, result);
}

static inline int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* Returns populated memory, so that no page of it faults later. */
static inline uint8_t *memory(size_t bytes)
{
    uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (base == MAP_FAILED)
        fail("mmap", -errno);
    return base;
}

/* Fills `data` with bytes that repeat nowhere, so that a piece in the wrong place is noticed. */
static inline void fill(uint8_t *data, size_t bytes, uint64_t seed)
{
    for (size_t at = 0; at + 8 <= bytes; at += 8) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        memcpy(data + at, &seed, 8);
    }
}

/* ---- devices ---------------------------------------------------------------------------------------------------- */

static inline int memory_read(const struct jdr_device *device, uint64_t offset, void *target, size_t length)
{
    memcpy(target, (uint8_t *)device->context + offset, length);
    return 0;
}

static inline int memory_write(const struct jdr_device *device, uint64_t offset, const struct iovec *iov, int count)
{
    for (int i = 0; i < count; i++) {
        memcpy((uint8_t *)device->context + offset, iov[i].iov_base, iov[i].iov_len);
        offset += iov[i].iov_len;
    }
    return 0;
}

static inline int memory_zero(const struct jdr_device *device, uint64_t offset, uint64_t length, bool may_discard)
{
    memset((uint8_t *)device->context + offset, 0, length);
    return 0;
}

static inline int null_write(const struct jdr_device *device, uint64_t offset, const struct iovec *iov, int count)
{
    return 0;
}

static inline int no_sync(const struct jdr_device *device)
{
    return 0;
}

static inline struct jdr_device memory_device(uint8_t *base)
{
    return (struct jdr_device){memory_read, memory_write, memory_zero, no_sync, base, -1, JDR_SECTOR};
}

/* Takes every write and keeps none. */
static inline struct jdr_device null_device(void)
{
    return (struct jdr_device){memory_read, null_write, memory_zero, no_sync, NULL, -1, JDR_SECTOR};
}

/* ---- ring and writer -------------------------------------------------------------------------------------------- */

struct rig {
    jdr_ring *ring;
    jdr_writer *writer;
    pthread_t thread, trimmer;
    _Atomic bool stopped;
};

static inline void *rig_main(void *rig)
{
    return (void *)(intptr_t)jdr_writer_run(((struct rig *)rig)->writer);
}

/* Nobody reads the log, so what is durable may be overwritten, and the log goes round without end. */
static inline void *rig_trim(void *argument)
{
    struct rig *rig = argument;
    struct jdr_writer_state state;
    for (uint64_t tail = 0; !rig->stopped; usleep(TRIM_US)) {
        jdr_writer_state(rig->writer, &state);
        if (state.durable_position > tail)
            check("tail", jdr_writer_set_tail(rig->writer, tail = state.durable_position));
    }
    return NULL;
}

/* Starts a ring whose consumer commits to [0, log_bytes) of `log`, in a thread of its own. */
static inline void rig_start(struct rig *rig, struct jdr_device log, uint64_t log_bytes, uint64_t ring_bytes)
{
    struct jdr_ring_options ring = {.payload_bytes = ring_bytes, .slots = SLOTS, .lsn_next = 1};
    check("ring", jdr_ring_create(&rig->ring, &ring));
    struct jdr_writer_options writer = {
        .ring = rig->ring,
        .device = log,
        .data_bytes = log_bytes,
        .section_id = SECTION_ID,
        .epoch = 1,
        .batch_bytes_max = 8u << 20,
    };
    check("writer", jdr_writer_create(&rig->writer, &writer));
    rig->stopped = false;
    if (pthread_create(&rig->thread, NULL, rig_main, rig) || pthread_create(&rig->trimmer, NULL, rig_trim, rig))
        fail("thread", -EAGAIN);
}

static inline void rig_stop(struct rig *rig)
{
    void *result;
    jdr_writer_stop(rig->writer);
    pthread_join(rig->thread, &result);
    rig->stopped = true;
    pthread_join(rig->trimmer, NULL);
    check("log writer", (intptr_t)result);
    jdr_writer_destroy(rig->writer);
    jdr_ring_destroy(rig->ring);
}

static inline jdr_filter *rig_filter(jdr_ring *ring, struct jdr_device primary, uint64_t size_bytes,
                                     uint64_t record_bytes_max)
{
    struct jdr_filter_options options = {
        .ring = ring,
        .primary = primary,
        .disk = 1,
        .size_bytes = size_bytes,
        .record_bytes_max = record_bytes_max,
        .stall_limit_ns = STALL_LIMIT_NS,
    };
    jdr_filter *filter;
    check("filter", jdr_filter_open(&filter, &options));
    return filter;
}

#endif
