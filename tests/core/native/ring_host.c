/*
 * ring_host.c: a host component without NBD, for tests: takes the host's side of a ring file, and obeys lines on stdin.
 * Each command answers one line, 0 if nothing else is said. Some end the process where a host component must never die,
 * but might.
 *
 *   ring_host RING PRIMARY SIZE LIMIT_MS [BYPASSED_FILE]
 *
 *   write OFFSET LENGTH BYTE | zero OFFSET LENGTH | flush | copy OFFSET LENGTH    -> the result
 *   read OFFSET LENGTH         -> a byte, or an error
 *   busy MS THREADS            writes 4 KiB blocks, flushing now and then -> writes, flushes, failures, longest in ms
 *   start OFFSET LENGTH BYTE   writes in a thread of its own -> 0
 *   join                       -> the result of each write that was started
 *   start-read OFFSET LENGTH   reads, and stops before it looks at what is pending -> 0
 *   end-read                   -> a byte
 *   other OFFSET LENGTH BYTE   appends a record of disk 2, which has no filter -> 0
 *   claim BYTES                reserves a record of disk 1 -> 0
 *   close-filter               closes the filter -> 0
 *   remove                     closes and frees the disk's filter -> 0
 *   block | unblock            the primary's writes and flushes wait, or go on -> 0
 *   block-flushes              the primary's flushes wait -> 0
 *   fail [COUNT]               the primary's next writes fail, or all -> 0
 *   full | room                the primary has no room for writes, or has -> 0
 *   trouble                    -> what is answered with errors at present, and the errno
 *   syncs                      -> how often the primary was flushed
 *   stats                      -> writes, unlogged writes, stalls, longest stall in ms
 *   admit BYTES | reserve BYTES | publish BYTES | lock | gate    takes that, and is killed with it
 *   stop-locked                stops itself (SIGSTOP) while it holds the lock of the LSN order
 *   close                      ends in order -> 0
 */
static void about_to_publish(void);
#define __atomic_store_n(target, value, order) (about_to_publish(), __atomic_store_n(target, value, order))
#include "../../../native/core/ring.c"
#undef __atomic_store_n
static void about_to_look(void);
#define jdr_ring_lsn_reserved(ring) (about_to_look(), jdr_ring_lsn_reserved(ring))
#include "../../../native/core/pending.c"
#undef jdr_ring_lsn_reserved

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

static jdr_ring *ring;
static jdr_filter *filter;
static jdr_applier *applier;
static pthread_t applier_thread;
static uint64_t size_bytes;
static bool dies_publishing;

static void about_to_publish(void)
{
    if (dies_publishing)
        raise(SIGKILL);
}

static _Thread_local unsigned looks_left = UINT_MAX; /* whether anything is pending, then what */
static _Atomic bool looks = true, stopped_looking;

static void about_to_look(void)
{
    if (looks_left == UINT_MAX || --looks_left)
        return;
    stopped_looking = true;
    while (!looks)
        usleep(1000);
}

/* ---- the primary, as it is told to be --------------------------------------------------------------------------- */

static struct jdr_device primary_file;
static _Atomic bool blocked, flushes_blocked, full;
static _Atomic unsigned syncs, failures_left;

static int write_primary(const struct jdr_device *device, uint64_t offset, const struct iovec *iov, int count)
{
    while (blocked)
        usleep(1000);
    if (full)
        return -ENOSPC;
    if (!failures_left)
        return primary_file.write(device, offset, iov, count);
    failures_left--;
    return -EIO;
}

static int sync_primary(const struct jdr_device *device)
{
    syncs++;
    while (blocked || flushes_blocked)
        usleep(1000);
    return primary_file.sync(device);
}

static struct jdr_device primary_on(int fd)
{
    jdr_device_from_fd(&primary_file, fd, JDR_SECTOR);
    struct jdr_device primary = primary_file;
    primary.write = write_primary;
    primary.sync = sync_primary;
    return primary;
}

/* ---- what it is told to do -------------------------------------------------------------------------------------- */

static void *run_applier(void *unused)
{
    (void)unused;
    jdr_applier_run(applier);
    return NULL;
}

static void die_with(const char *what, uint64_t bytes)
{
    struct jdr_record record = {.length = bytes, .disk = 1, .payload_bytes = (uint32_t)bytes, .kind = JDR_WRITE};
    struct jdr_room room;
    uint64_t position;
    if (!strcmp(what, "lock"))
        lock_reserve(ring);
    else if (!strcmp(what, "gate"))
        jdr_ring_lock(&ring->shared->gate, jdr_monotonic_ns() + LOCK_LIMIT_NS);
    else if ((dies_publishing = !strcmp(what, "publish")) && !jdr_ring_admit(ring, bytes, 0, &room))
        jdr_ring_append(ring, room, &record, calloc(1, bytes), bytes);
    else if (jdr_ring_admit(ring, bytes, 0, &room) || (!strcmp(what, "reserve") && reserve(ring, &record, &position)))
        return;
    raise(SIGKILL);
}

struct busy {
    int64_t until;
    unsigned seed;
    uint64_t writes, flushes, failed;
    int64_t longest;
};

static void note(struct busy *busy, int64_t begun, bool failed)
{
    int64_t took = jdr_monotonic_ns() - begun;
    busy->longest = took > busy->longest ? took : busy->longest;
    busy->failed += failed;
}

/* Blocks that say who wrote them when. */
static void *run_busy(void *argument)
{
    struct busy *busy = argument;
    uint64_t block[512];
    while (jdr_monotonic_ns() < busy->until) {
        uint64_t at = (uint64_t)rand_r(&busy->seed) % (size_bytes / sizeof block) * sizeof block;
        for (int i = 0; i < 512; i++)
            block[i] = busy->writes ^ at ^ ((uint64_t)busy->seed << 32);
        int64_t begun = jdr_monotonic_ns();
        note(busy, begun, jdr_filter_pwrite(filter, block, sizeof block, at) < 0);
        if (busy->writes++ % 64 == 0) {
            begun = jdr_monotonic_ns();
            note(busy, begun, jdr_filter_flush(filter) < 0);
            busy->flushes++;
        }
    }
    return NULL;
}

static void be_busy(uint64_t milliseconds, uint64_t count)
{
    struct busy all[16] = {0}, sum = {0};
    pthread_t threads[16];
    for (uint64_t i = 0; i < count && i < 16; i++) {
        all[i] = (struct busy){.until = jdr_monotonic_ns() + (int64_t)milliseconds * 1000000, .seed = (unsigned)i + 1};
        pthread_create(&threads[i], NULL, run_busy, &all[i]);
    }
    for (uint64_t i = 0; i < count && i < 16; i++) {
        pthread_join(threads[i], NULL);
        sum.writes += all[i].writes;
        sum.flushes += all[i].flushes;
        sum.failed += all[i].failed;
        sum.longest = all[i].longest > sum.longest ? all[i].longest : sum.longest;
    }
    printf("%lu %lu %lu %ld\n", sum.writes, sum.flushes, sum.failed, sum.longest / 1000000);
}

static void read_back(uint64_t offset, uint64_t length)
{
    uint8_t *data = malloc(length);
    int result = jdr_filter_pread(filter, data, length, offset);
    bool same = true;
    for (uint64_t i = 0; !result && i < length; i++)
        same &= data[i] == data[0];
    printf("%d\n", result ? result : same ? data[0] : 999);
    free(data);
}

static void write_bytes(uint64_t offset, uint64_t length, int byte)
{
    uint8_t *data = malloc(length);
    memset(data, byte, length);
    printf("%ld\n", jdr_filter_pwrite(filter, data, length, offset));
    free(data);
}

struct started {
    pthread_t thread;
    uint64_t offset, length;
    int byte;
    int64_t result;
};

static struct started started[16];
static unsigned started_count;

static void *run_started(void *argument)
{
    struct started *call = argument;
    uint8_t *data = malloc(call->length);
    memset(data, call->byte, call->length);
    call->result = jdr_filter_pwrite(filter, data, call->length, call->offset);
    free(data);
    return NULL;
}

static void start(uint64_t offset, uint64_t length, int byte)
{
    struct started *call = &started[started_count++];
    *call = (struct started){.offset = offset, .length = length, .byte = byte};
    pthread_create(&call->thread, NULL, run_started, call);
}

static void join(void)
{
    for (unsigned i = 0; i < started_count; i++) {
        pthread_join(started[i].thread, NULL);
        printf("%ld%c", started[i].result, i + 1 < started_count ? ' ' : '\n');
    }
    started_count = 0;
}

static void read_back(uint64_t offset, uint64_t length);

static void *run_read(void *argument)
{
    uint64_t *range = argument;
    looks_left = 2;
    read_back(range[0], range[1]);
    return NULL;
}

static pthread_t reader;
static uint64_t reader_range[2];

static void start_read(uint64_t offset, uint64_t length)
{
    looks = stopped_looking = false;
    reader_range[0] = offset;
    reader_range[1] = length;
    pthread_create(&reader, NULL, run_read, reader_range);
    while (!stopped_looking)
        usleep(1000);
}

static void append_other(uint64_t offset, uint64_t length, int byte)
{
    struct jdr_record record = {
        .offset = offset, .length = length, .disk = 2, .payload_bytes = (uint32_t)length, .kind = JDR_WRITE};
    uint8_t *data = malloc(length);
    memset(data, byte, length);
    struct jdr_room room;
    if (!jdr_ring_admit(ring, length, 0, &room))
        jdr_ring_append(ring, room, &record, data, length);
    free(data);
}

static void claim(uint64_t bytes)
{
    struct jdr_record record = {.length = bytes, .disk = 1, .payload_bytes = (uint32_t)bytes, .kind = JDR_WRITE};
    struct jdr_room room;
    uint64_t position;
    if (!jdr_ring_admit(ring, bytes, 0, &room))
        reserve(ring, &record, &position);
}

static void end_all(void)
{
    jdr_filter_close(filter);
    if (applier) {
        jdr_applier_stop(applier);
        pthread_join(applier_thread, NULL);
    }
    jdr_filter_flush(filter);
    jdr_filter_destroy(filter);
    jdr_applier_destroy(applier);
    jdr_ring_end(ring);
    jdr_ring_destroy(ring);
    printf("0\n");
    fflush(stdout);
    exit(0);
}

static bool obey_quietly(const char *verb, uint64_t a, uint64_t b, uint64_t c)
{
    if (!strcmp(verb, "start")) {
        start(a, b, (int)c);
    } else if (!strcmp(verb, "remove")) {
        jdr_filter_close(filter);
        jdr_filter_destroy(filter);
        filter = NULL;
    } else if (!strcmp(verb, "close-filter")) {
        jdr_filter_close(filter);
    } else if (!strcmp(verb, "block") || !strcmp(verb, "unblock")) {
        blocked = verb[0] == 'b';
        flushes_blocked = false;
    } else if (!strcmp(verb, "block-flushes")) {
        flushes_blocked = true;
    } else if (!strcmp(verb, "start-read")) {
        start_read(a, b);
    } else if (!strcmp(verb, "other")) {
        append_other(a, b, (int)c);
    } else if (!strcmp(verb, "claim")) {
        claim(a);
    } else if (!strcmp(verb, "full") || !strcmp(verb, "room")) {
        full = verb[0] == 'f';
    } else if (!strcmp(verb, "fail")) {
        failures_left = a ? (unsigned)a : UINT_MAX;
    } else {
        return false;
    }
    return true;
}

static void print_trouble(void)
{
    struct jdr_filter_stats stats;
    jdr_filter_stats(filter, &stats);
    printf("%lu %lu\n", stats.trouble, stats.trouble_errno);
}

static void print_stats(void)
{
    struct jdr_filter_stats stats;
    jdr_filter_stats(filter, &stats);
    printf("%lu %lu %lu %lu\n", stats.writes, stats.unlogged_writes, stats.stalls, stats.stall_ns_max / 1000000);
}

static void obey(const char *line)
{
    char verb[16];
    uint64_t a = 0, b = 0, c = 0;
    sscanf(line, "%15s %lu %lu %lu", verb, &a, &b, &c);
    if (!strcmp(verb, "write"))
        write_bytes(a, b, (int)c);
    else if (!strcmp(verb, "zero"))
        printf("%ld\n", jdr_filter_zero(filter, a, b, JDR_ZERO_FREES_SPACE));
    else if (!strcmp(verb, "read"))
        read_back(a, b);
    else if (!strcmp(verb, "flush"))
        printf("%ld\n", jdr_filter_flush(filter));
    else if (!strcmp(verb, "copy"))
        printf("%ld\n", jdr_filter_copy(filter, a, b));
    else if (!strcmp(verb, "busy"))
        be_busy(a, b);
    else if (!strcmp(verb, "close"))
        end_all();
    else if (!strcmp(verb, "join"))
        join();
    else if (!strcmp(verb, "end-read")) {
        looks = true;
        pthread_join(reader, NULL);
    } else if (!strcmp(verb, "syncs"))
        printf("%u\n", syncs);
    else if (obey_quietly(verb, a, b, c))
        printf("0\n");
    else if (!strcmp(verb, "stop-locked")) {
        lock_reserve(ring);
        raise(SIGSTOP);
        pthread_mutex_unlock(&ring->shared->reserve);
        printf("0\n");
    } else if (!strcmp(verb, "trouble"))
        print_trouble();
    else if (!strcmp(verb, "stats"))
        print_stats();
    else
        die_with(verb, a);
}

int main(int argc, char **argv)
{
    int file = open(argv[1], O_RDWR), primary = open(argv[2], O_RDWR);
    int result = jdr_ring_open(&ring, file, JDR_HOST, NULL);
    if (!result && argc > 5)
        result = jdr_applier_create(&applier, ring, argv[5]);
    struct jdr_filter_options options = {.ring = ring,
                                         .disk = 1,
                                         .size_bytes = size_bytes = strtoull(argv[3], NULL, 10),
                                         .record_bytes_max = 1u << 20,
                                         .stall_limit_ns = atoll(argv[4]) * 1000000,
                                         .bypass = true,
                                         .applier = applier};
    options.primary = primary_on(primary);
    if (!result) {
        uint64_t longest = jdr_ring_record_bytes_max(ring);
        options.record_bytes_max = longest < options.record_bytes_max ? longest : options.record_bytes_max;
        result = jdr_filter_open(&filter, &options);
    }
    if (!result && applier)
        pthread_create(&applier_thread, NULL, run_applier, NULL);
    printf("%d\n", result);
    fflush(stdout);
    for (char line[256]; !result && fgets(line, sizeof line, stdin); fflush(stdout))
        obey(line);
    return result != 0;
}
