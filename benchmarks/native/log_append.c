/*
 * log_append LOG PEER LOG_BYTES ROUNDS BYTES WRITE_BYTES
 *
 * A round writes BYTES in writes of WRITE_BYTES through the filter into the engine's log on the O_DIRECT file LOG, and
 * BYTES in pwrites of 1 MiB to the O_DIRECT file PEER. Each of the two ends with everything durable. The primary takes
 * every write and keeps none, so that only the log is measured. The program prints the nanoseconds of both. Both files
 * are LOG_BYTES long and have been written before. The log goes round in its file, from position 0.
 */
#include "rig.h"

#define PEER_BYTES (1u << 20)
#define SOURCE_BYTES (4u << 20)

static int open_direct(const char *path)
{
    int fd = open(path, O_RDWR | O_DIRECT);
    if (fd < 0)
        fail(path, -errno);
    return fd;
}

static int64_t time_engine(jdr_filter *filter, const uint8_t *data, uint64_t bytes, uint64_t write_bytes,
                           uint64_t disk_bytes)
{
    int64_t begun = now_ns();
    for (uint64_t done = 0; done < bytes; done += write_bytes)
        check("write", jdr_filter_pwrite(filter, data + done % SOURCE_BYTES, write_bytes, done % disk_bytes));
    check("flush", jdr_filter_flush(filter));
    return now_ns() - begun;
}

static int64_t time_peer(int fd, const uint8_t *data, uint64_t bytes, uint64_t *position, uint64_t log_bytes)
{
    int64_t begun = now_ns();
    for (uint64_t done = 0; done < bytes; done += PEER_BYTES, *position += PEER_BYTES)
        if (pwrite(fd, data + done % SOURCE_BYTES, PEER_BYTES, (off_t)(*position % log_bytes)) != PEER_BYTES)
            fail("peer", -errno);
    if (fdatasync(fd))
        fail("peer", -errno);
    return now_ns() - begun;
}

int main(int argc, char **argv)
{
    if (argc != 7)
        fail("arguments", -EINVAL);
    uint64_t log_bytes = strtoull(argv[3], NULL, 10), rounds = strtoull(argv[4], NULL, 10);
    uint64_t bytes = strtoull(argv[5], NULL, 10), write_bytes = strtoull(argv[6], NULL, 10), position = 0;
    struct jdr_device log, primary = null_device();
    jdr_device_from_fd(&log, open_direct(argv[1]), JDR_SECTOR);
    int peer = open_direct(argv[2]);
    uint8_t *data = memory(SOURCE_BYTES);
    fill(data, SOURCE_BYTES, 1);
    struct rig rig;
    rig_start(&rig, log, log_bytes, 128u << 20);
    jdr_filter *filter = rig_filter(rig.ring, primary, 1ull << 30, 1u << 20);
    for (uint64_t round = 0; round <= rounds; round++) {
        int64_t ours = time_engine(filter, data, bytes, write_bytes, 1ull << 30);
        int64_t theirs = time_peer(peer, data, bytes, &position, log_bytes);
        if (round) /* the first one warms up */
            printf("%lld %lld\n", (long long)ours, (long long)theirs);
    }
    rig_stop(&rig);
    return 0;
}
