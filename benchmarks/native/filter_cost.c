/*
 * filter_cost WRITE_BYTES THREADS ROUNDS WRITES RING_BYTES [PRIMARY LOG]
 *
 * A round times WRITES writes per thread in three ways: to the primary alone, through the filter, and copied into a
 * buffer as large as the ring and hashed (the floor). It prints the nanoseconds per write of each. The primary is
 * memory and the log keeps nothing, unless both are named as files. Before the rounds, every byte that reaches the log
 * is compared.
 */
#include "rig.h"

#include "checksum.h"

#define PRIMARY_BYTES (64u << 20)
#define SOURCE_BYTES (1u << 20) /* per thread: it stays in the core's cache, as a guest's newest write does */
#define CHECKED_WRITES 1024

struct load {
    uint64_t write_bytes, writes, ring_bytes, threads;
    struct jdr_device primary;
    jdr_filter *filter;
    uint8_t *floor;
};

struct worker {
    struct load *load;
    void (*step)(struct worker *, const uint8_t *data, uint64_t offset);
    uint64_t number, position, hash;
    uint8_t *source;
    pthread_barrier_t *begin, *end;
};

/* ---- the three ways --------------------------------------------------------------------------------------------- */

static void write_plain(struct worker *worker, const uint8_t *data, uint64_t offset)
{
    struct iovec iov = {(void *)data, worker->load->write_bytes};
    check("write", worker->load->primary.write(&worker->load->primary, offset, &iov, 1));
}

static void write_protected(struct worker *worker, const uint8_t *data, uint64_t offset)
{
    check("protected write", jdr_filter_pwrite(worker->load->filter, data, worker->load->write_bytes, offset));
}

static void copy_and_hash(struct worker *worker, const uint8_t *data, uint64_t offset)
{
    struct load *load = worker->load;
    uint64_t share = load->ring_bytes / load->threads;
    uint8_t *target = load->floor + worker->number * share + worker->position % share;
    memcpy(target, data, load->write_bytes);
    worker->hash += jdr_checksum(target, load->write_bytes);
    worker->position += load->write_bytes;
}

/* ---- a round ---------------------------------------------------------------------------------------------------- */

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct load *load = worker->load;
    uint64_t share = PRIMARY_BYTES / load->threads;
    pthread_barrier_wait(worker->begin);
    for (uint64_t nth = 0; nth < load->writes; nth++)
        worker->step(worker, worker->source + nth * load->write_bytes % SOURCE_BYTES,
                     worker->number * share + nth * load->write_bytes % share);
    pthread_barrier_wait(worker->end);
    return NULL;
}

static double time_ns(struct load *load, struct worker *workers,
                      void (*step)(struct worker *, const uint8_t *, uint64_t))
{
    pthread_barrier_t begin, end;
    pthread_t threads[16];
    pthread_barrier_init(&begin, NULL, (unsigned)load->threads + 1);
    pthread_barrier_init(&end, NULL, (unsigned)load->threads + 1);
    for (uint64_t n = 0; n < load->threads; n++) {
        workers[n].step = step;
        workers[n].begin = &begin;
        workers[n].end = &end;
        if (pthread_create(&threads[n], NULL, work, &workers[n]))
            fail("thread", -EAGAIN);
    }
    pthread_barrier_wait(&begin);
    int64_t begun = now_ns();
    pthread_barrier_wait(&end);
    int64_t took = now_ns() - begun;
    for (uint64_t n = 0; n < load->threads; n++)
        pthread_join(threads[n], NULL);
    return (double)took / (double)load->writes;
}

/* ---- the bytes -------------------------------------------------------------------------------------------------- */

/* A log device that compares every payload with the primary, and checks its checksum. */
static int compare_write(const struct jdr_device *device, uint64_t offset, const struct iovec *iov, int count)
{
    struct load *load = device->context;
    const struct jdr_record *records = (const void *)((uint8_t *)iov[0].iov_base + 128);
    const uint8_t *payload = count > 1 ? iov[1].iov_base : NULL;
    for (uint64_t done = 0; count > 1 && done < iov[1].iov_len; done += records->payload_bytes, records++)
        if (memcmp(payload + done, (uint8_t *)load->primary.context + records->offset, records->payload_bytes) ||
            jdr_checksum(payload + done, records->payload_bytes) != records->payload_checksum)
            fail("check", 0);
    return 0;
}

static void check_bytes(struct load load, const uint8_t *source)
{
    struct rig rig;
    struct jdr_device log = null_device();
    uint8_t *disk = memory(PRIMARY_BYTES);
    uint64_t writes = PRIMARY_BYTES / load.write_bytes < CHECKED_WRITES ? PRIMARY_BYTES / load.write_bytes
                                                                        : CHECKED_WRITES;
    load.primary = memory_device(disk);
    log.write = compare_write;
    log.context = &load;
    rig_start(&rig, log, 256u << 20, load.ring_bytes);
    jdr_filter *filter = rig_filter(rig.ring, load.primary, PRIMARY_BYTES, load.write_bytes);
    for (uint64_t nth = 0; nth < writes; nth++) {
        const uint8_t *data = source + nth * load.write_bytes % SOURCE_BYTES;
        check("write", jdr_filter_pwrite(filter, data, load.write_bytes, nth * load.write_bytes));
        if (memcmp(disk + nth * load.write_bytes, data, load.write_bytes))
            fail("primary", 0);
    }
    check("flush", jdr_filter_flush(filter));
    rig_stop(&rig);
    jdr_filter_destroy(filter);
    munmap(disk, PRIMARY_BYTES);
}

/* ---- devices ---------------------------------------------------------------------------------------------------- */

static struct jdr_device file_device(const char *path, uint64_t bytes)
{
    struct jdr_device device;
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes))
        fail(path, -errno);
    jdr_device_from_fd(&device, fd, JDR_SECTOR);
    return device;
}

int main(int argc, char **argv)
{
    if (argc != 6 && argc != 8)
        fail("arguments", -EINVAL);
    struct load load = {
        .write_bytes = strtoull(argv[1], NULL, 10),
        .threads = strtoull(argv[2], NULL, 10),
        .writes = strtoull(argv[4], NULL, 10),
        .ring_bytes = strtoull(argv[5], NULL, 10),
    };
    uint64_t log_bytes = 256u << 20;
    struct worker workers[16] = {0};
    for (uint64_t n = 0; n < load.threads; n++) {
        workers[n] = (struct worker){.load = &load, .number = n, .source = memory(SOURCE_BYTES)};
        fill(workers[n].source, SOURCE_BYTES, n + 1);
    }
    check_bytes(load, workers[0].source);
    load.floor = memory(load.ring_bytes);
    load.primary = argc == 8 ? file_device(argv[6], PRIMARY_BYTES) : memory_device(memory(PRIMARY_BYTES));
    struct rig rig;
    rig_start(&rig, argc == 8 ? file_device(argv[7], log_bytes) : null_device(), log_bytes, load.ring_bytes);
    load.filter = rig_filter(rig.ring, load.primary, PRIMARY_BYTES, load.write_bytes);
    uint64_t rounds = strtoull(argv[3], NULL, 10);
    for (uint64_t round = 0; round <= rounds; round++) {
        double plain = time_ns(&load, workers, write_plain);
        double protected = time_ns(&load, workers, write_protected);
        double floor = time_ns(&load, workers, copy_and_hash);
        if (round) /* the first one warms up */
            printf("%.1f %.1f %.1f\n", plain, protected, floor);
        fflush(stdout);
    }
    rig_stop(&rig);
    return 0;
}
