/*
 * scatter.c: gathers pieces that follow one another in the target into runs, and writes or reads each run at once.
 */
#include "scatter.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "checksum.h"

enum { RUN_PARTS_MAX = 64, READ_BYTES = 256 << 10 };

/* A contiguous range of the target, gathered from up to RUN_PARTS_MAX places in the source. */
struct run {
    uint64_t offset;
    uint64_t end;
    int parts;
    struct iovec part[RUN_PARTS_MAX];
};

int64_t jdr_scatter_check(const struct jdr_piece *pieces, size_t count, size_t source_bytes)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t source_end = (uint64_t)pieces[i].frame_offset + pieces[i].length;
        if (source_end > source_bytes || pieces[i].offset > (uint64_t)INT64_MAX - pieces[i].length)
            return (int64_t)i;
    }
    return -1;
}

static void drop_written(struct run *run, int *first, size_t written)
{
    run->offset += written;
    while (*first < run->parts && written >= run->part[*first].iov_len)
        written -= run->part[(*first)++].iov_len;
    if (written) {
        run->part[*first].iov_base = (char *)run->part[*first].iov_base + written;
        run->part[*first].iov_len -= written;
    }
}

static int write_run(int fd, struct run *run)
{
    int first = 0;
    while (run->offset < run->end) {
        ssize_t written = pwritev(fd, run->part + first, run->parts - first, (off_t)run->offset);
        if (written > 0)
            drop_written(run, &first, (size_t)written);
        else if (written == 0)
            return ENOSPC;
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}

static int extends(const struct run *run, const struct jdr_piece *piece)
{
    return run->parts > 0 && run->parts < RUN_PARTS_MAX && run->end == piece->offset;
}

static void add_part(struct run *run, uint8_t *from, size_t length)
{
    struct iovec *last = run->part + run->parts - 1;
    if (run->parts > 0 && (uint8_t *)last->iov_base + last->iov_len == from)
        last->iov_len += length;
    else
        run->part[run->parts++] = (struct iovec){.iov_base = from, .iov_len = length};
    run->end += length;
}

static uint64_t digest_of(const uint8_t *source, const struct jdr_piece *pieces, size_t count, uint64_t before)
{
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_64bits_reset_withSeed(&state, before);
    for (size_t i = 0; i < count; i++)
        jdr_checksum_more(&state, source + pieces[i].frame_offset, pieces[i].length);
    return XXH3_64bits_digest(&state);
}

int jdr_scatter_write(int fd, const uint8_t *source, const struct jdr_piece *pieces, size_t count, uint64_t *digest)
{
    struct run run = {0};
    for (size_t i = 0; i < count; i++) {
        const struct jdr_piece *piece = pieces + i;
        if (piece->length == 0)
            continue;
        if (!extends(&run, piece)) {
            int failed = write_run(fd, &run);
            if (failed)
                return failed;
            run.offset = run.end = piece->offset;
            run.parts = 0;
        }
        add_part(&run, (uint8_t *)source + piece->frame_offset, piece->length);
    }
    *digest = digest_of(source, pieces, count, *digest);
    return write_run(fd, &run);
}

/* ---- reading it back -------------------------------------------------------------------------------------------- */

static int read_range(int fd, uint64_t offset, uint64_t end, uint8_t *buffer, XXH3_state_t *state)
{
    while (offset < end) {
        size_t length = end - offset < READ_BYTES ? (size_t)(end - offset) : READ_BYTES;
        ssize_t got = pread(fd, buffer, length, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : EIO;
        jdr_checksum_more(state, buffer, (size_t)got);
        offset += (uint64_t)got;
    }
    return 0;
}

/* Read the pieces from `first` on that belong to one frame. Returns the index after the last one, in *end. */
static int read_frame(int fd, const struct jdr_piece *pieces, size_t first, size_t count, uint8_t *buffer,
                      XXH3_state_t *state, size_t *end)
{
    size_t at = first;
    while (at < count && pieces[at].frame == pieces[first].frame) {
        uint64_t start = pieces[at].offset, stop = start;
        for (; at < count && pieces[at].frame == pieces[first].frame && pieces[at].offset == stop; at++)
            stop += pieces[at].length;
        int failed = read_range(fd, start, stop, buffer, state);
        if (failed)
            return failed;
    }
    *end = at;
    return 0;
}

int jdr_gather_digest(int fd, const struct jdr_piece *pieces, size_t count, uint64_t *digest)
{
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    uint8_t *buffer = malloc(READ_BYTES);
    if (!buffer)
        return ENOMEM;
    int failed = 0;
    for (size_t at = 0; at < count && !failed;) {
        XXH3_64bits_reset_withSeed(&state, *digest);
        failed = read_frame(fd, pieces, at, count, buffer, &state, &at);
        *digest = XXH3_64bits_digest(&state);
    }
    free(buffer);
    return failed;
}
