/*
 * scatter.c: gathers pieces that follow one another in the target into runs, and writes each run with pwritev.
 */
#include "scatter.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RUN_PARTS_MAX = 64 };

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

int jdr_scatter_write(int fd, const uint8_t *source, const struct jdr_piece *pieces, size_t count)
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
    return write_run(fd, &run);
}
