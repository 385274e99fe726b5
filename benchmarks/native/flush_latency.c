/*
 * flush_latency LOG PEER LOG_BYTES ROUNDS FLUSHES
 *
 * Depth 1. The engine writes 4 KiB through the filter and flushes its log on the O_DIRECT file LOG, with the primary in
 * memory. The peer writes 4 KiB with pwrite to the O_DIRECT file PEER, followed by fdatasync. A round does FLUSHES of
 * the one, then of the other, and prints them in pairs, in nanoseconds. Both files are LOG_BYTES long and have been
 * written before.
 */
#include "rig.h"

#define WRITE_BYTES 4096u
#define PRIMARY_BYTES (16u << 20)

static int open_direct(const char *path)
{
    int fd = open(path, O_RDWR | O_DIRECT);
    if (fd < 0)
        fail(path, -errno);
    return fd;
}

static int64_t time_engine(jdr_filter *filter, const uint8_t *data, uint64_t offset)
{
    int64_t begun = now_ns();
    int64_t lsn = jdr_filter_pwrite(filter, data, WRITE_BYTES, offset);
    check("write", lsn);
    int64_t durable = jdr_filter_flush(filter);
    int64_t took = now_ns() - begun;
    check("flush", durable);
    if (durable < lsn)
        fail("flush", 0);
    return took;
}

static int64_t time_peer(int fd, const uint8_t *data, uint64_t offset)
{
    int64_t begun = now_ns();
    if (pwrite(fd, data, WRITE_BYTES, (off_t)offset) != WRITE_BYTES || fdatasync(fd))
        fail("peer", -errno);
    return now_ns() - begun;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        fail("arguments", -EINVAL);
    uint64_t log_bytes = strtoull(argv[3], NULL, 10), rounds = strtoull(argv[4], NULL, 10);
    uint64_t flushes = strtoull(argv[5], NULL, 10);
    struct jdr_device log;
    jdr_device_from_fd(&log, open_direct(argv[1]), JDR_SECTOR);
    int peer = open_direct(argv[2]);
    uint8_t *data = memory(WRITE_BYTES * 256);
    fill(data, WRITE_BYTES * 256, 1);
    struct rig rig;
    rig_start(&rig, log, log_bytes, 16u << 20);
    jdr_filter *filter = rig_filter(rig.ring, memory_device(memory(PRIMARY_BYTES)), PRIMARY_BYTES, WRITE_BYTES);
    int64_t *ours = calloc(flushes, sizeof *ours), *theirs = calloc(flushes, sizeof *theirs);
    for (uint64_t done = 0; done < rounds * flushes; done += flushes) {
        for (uint64_t n = 0; n < flushes; n++)
            ours[n] = time_engine(filter, data + n % 256 * WRITE_BYTES, (done + n) * WRITE_BYTES % PRIMARY_BYTES);
        for (uint64_t n = 0; n < flushes; n++)
            theirs[n] = time_peer(peer, data + n % 256 * WRITE_BYTES, (done + n) * WRITE_BYTES % log_bytes);
        for (uint64_t n = 0; n < flushes; n++)
            printf("%lld %lld\n", (long long)ours[n], (long long)theirs[n]);
    }
    rig_stop(&rig);
    return 0;
}
