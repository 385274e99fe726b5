/*
 * ring_mix.c: both sides of a write-back ring in one process, and a guest that knows what it must read.
 *
 *   ring_mix SECONDS PIECE_BYTES RING_BYTES BYPASSED_FILE THREADS
 *
 * The disk's first half holds one byte all the time; each letter of THREADS is a thread that writes it again (w),
 * copies it in the background (c), or reads it (r). The second half is written with another byte, fast enough for the
 * ring to be full, so that room is used again as soon as it is given back. Nobody may ever see the second byte in the
 * first half: neither a read nor a record. Prints reads, background records, how many of each were wrong, calls that
 * failed, and whether logging is on.
 */
#include "../../../native/core/ring_shared.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define HALF (1u << 20)
#define LOG_BYTES (64u << 20)
#define OURS 0xAA
#define OTHERS 0x55
#define HEADER_BYTES 128
#define COUNT_AT 40

static jdr_ring *host, *drva;
static jdr_filter *filter;
static jdr_applier *applier;
static jdr_writer *writer;
static _Atomic bool stop;
static size_t piece;
static _Atomic uint64_t reads, reads_wrong, copies, copies_wrong, failed;

static void must(const char *what, int result)
{
    if (result) {
        fprintf(stderr, "%s: %s\n", what, strerror(-result));
        exit(1);
    }
}

static bool is_all(const uint8_t *data, size_t length, uint8_t byte)
{
    return data[0] == byte && memcmp(data, data + 1, length - 1) == 0;
}

/* ---- a log that keeps nothing, and looks at what it is given ---------------------------------------------------- */

static bool payload_is_ours(const struct iovec *pieces, uint64_t position, uint64_t length)
{
    for (; length; pieces++) {
        if (position >= pieces->iov_len) {
            position -= pieces->iov_len;
            continue;
        }
        uint64_t here = pieces->iov_len - position < length ? pieces->iov_len - position : length;
        if (!is_all((uint8_t *)pieces->iov_base + position, here, OURS))
            return false;
        position = 0;
        length -= here;
    }
    return true;
}

static int look_at_batch(const struct jdr_device *device, uint64_t offset, const struct iovec *pieces, int count)
{
    const uint8_t *header = pieces[0].iov_base;
    const struct jdr_record *records = (const void *)(header + HEADER_BYTES);
    uint32_t record_count;
    memcpy(&record_count, header + COUNT_AT, sizeof record_count);
    uint64_t position = 0;
    for (uint32_t i = 0; i < record_count; position += records[i++].payload_bytes)
        if (records[i].offset < HALF) {
            copies += (records[i].flags & JDR_BACKGROUND) != 0;
            copies_wrong += records[i].kind != JDR_WRITE ||
                            !payload_is_ours(pieces + 1, position, records[i].payload_bytes);
        }
    return 0;
}

static int sync_nothing(const struct jdr_device *device)
{
    return 0;
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static pthread_t begin(void *(*run)(void *))
{
    pthread_t thread;
    must("thread", -pthread_create(&thread, NULL, run, NULL));
    return thread;
}

static void *run_applier(void *unused)
{
    jdr_applier_run(applier);
    return NULL;
}

static void *run_writer(void *unused)
{
    jdr_writer_run(writer);
    return NULL;
}

static void *trim(void *unused)
{
    struct jdr_writer_state state;
    for (; !stop; usleep(300)) {
        jdr_writer_state(writer, &state);
        jdr_writer_set_tail(writer, state.durable_position);
    }
    return NULL;
}

static void *write_others(void *unused)
{
    uint8_t *data = malloc(piece);
    memset(data, OTHERS, piece);
    for (uint64_t n = 0; !stop; n++)
        failed += jdr_filter_pwrite(filter, data, piece, HALF + n % (HALF / piece) * piece) <= 0;
    free(data);
    return NULL;
}

static void *write_ours(void *unused)
{
    uint8_t *data = malloc(piece);
    memset(data, OURS, piece);
    for (uint64_t n = 0; !stop; n++)
        failed += jdr_filter_pwrite(filter, data, piece, n % 4 * piece) <= 0;
    free(data);
    return NULL;
}

static void *copy_ours(void *unused)
{
    for (uint64_t n = 0; !stop; n++)
        failed += jdr_filter_copy(filter, n % 4 * piece, piece) <= 0;
    return NULL;
}

static void *read_ours(void *unused)
{
    uint8_t *data = malloc(piece);
    for (uint64_t n = 0; !stop; n++, reads++) {
        failed += jdr_filter_pread(filter, data, piece, n % 4 * piece) != 0;
        reads_wrong += !is_all(data, piece, OURS);
    }
    free(data);
    return NULL;
}

/* ---- the disk, its ring and its log ----------------------------------------------------------------------------- */

static int temporary(const char *folder)
{
    char path[100];
    snprintf(path, sizeof path, "%s/mix-XXXXXX", folder);
    int fd = mkstemp(path);
    must(path, fd < 0 ? -errno : 0);
    unlink(path);
    return fd;
}

static void set_up(uint64_t ring_bytes, const char *bypassed_file)
{
    const uint8_t domain[16] = {1};
    int fd = temporary("/dev/shm"), primary = temporary("/dev/shm");
    struct jdr_ring_options ring = {.payload_bytes = ring_bytes, .slots = 1024, .lsn_next = 1, .write_back = true};
    must("format", jdr_ring_format(fd, &ring, domain));
    must("open", jdr_ring_open(&drva, fd, JDR_DRVA, domain));
    must("open", jdr_ring_open(&host, fd, JDR_HOST, domain));
    must("adopt", jdr_ring_adopt(drva, 0));
    struct jdr_writer_options log = {
        .ring = drva,
        .device = {.write = look_at_batch, .sync = sync_nothing, .fd = -1, .block_bytes = JDR_SECTOR},
        .data_bytes = LOG_BYTES,
        .section_id = 1,
        .epoch = 1,
        .batch_bytes_max = 1 << 20,
    };
    must("writer", jdr_writer_create(&writer, &log));
    must("applier", jdr_applier_create(&applier, host, bypassed_file));
    uint8_t *ours = malloc(HALF);
    memset(ours, OURS, HALF);
    must("primary", ftruncate(primary, 2 * HALF) || pwrite(primary, ours, HALF, 0) != HALF ? -errno : 0);
    free(ours);
    struct jdr_filter_options disk = {
        .ring = host,
        .disk = 1,
        .size_bytes = 2 * HALF,
        .record_bytes_max = piece,
        .stall_limit_ns = 20000000000ll,
        .bypass = true,
        .applier = applier,
    };
    jdr_device_from_fd(&disk.primary, primary, JDR_SECTOR);
    must("filter", jdr_filter_open(&filter, &disk));
}

int main(int count, char **arguments)
{
    if (count != 6)
        return 2;
    piece = strtoull(arguments[2], NULL, 10);
    set_up(strtoull(arguments[3], NULL, 10), arguments[4]);
    begin(run_applier);
    begin(run_writer);
    pthread_t threads[16] = {begin(trim), begin(write_others)};
    size_t running = 2;
    for (const char *kind = arguments[5]; *kind && running < 16; kind++)
        threads[running++] = begin(*kind == 'w' ? write_ours : *kind == 'c' ? copy_ours : read_ours);
    usleep((useconds_t)(strtod(arguments[1], NULL) * 1e6));
    stop = true;
    while (running)
        pthread_join(threads[--running], NULL);
    printf("%lu %lu %lu %lu %lu %d\n", reads, copies, reads_wrong, copies_wrong, failed, jdr_ring_logging(host));
    fflush(stdout);
    _exit(0);
}
