/*
 * log_file.c: limits the size of the file that standard error goes to.
 *
 * The file lies on tmpfs, and guests can make it grow: nbdkit writes a line for every request that it refuses and every
 * handshake that fails. The process that started this one may be gone, so this one has to bound the file.
 *
 * Invariants: a file is cut only if the parameter log-limit= says so. Nothing is lost until the file is longer than
 * that. Then its newest quarter stays, after a line that says what was cut. Messages go straight to the file, so the
 * last words of a process that dies are in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"

#define LOOK_MS 200 /* a peer writes about a megabyte a second */
#define FILE_ON STDERR_FILENO

static off_t limit_bytes;
static int stopping = -1; /* an eventfd that is readable once the thread is to end */
static pthread_t thread;

/* Read the newest `keep` bytes of the file, from the beginning of a line on, to `tail`. Returns their number. */
static size_t read_tail(char *tail, size_t keep, off_t size)
{
    int fd = open("/proc/self/fd/2", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : pread(fd, tail, keep, size - (off_t)keep);
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return 0;
    char *line = memchr(tail, '\n', (size_t)got);
    size_t skipped = line ? (size_t)(line + 1 - tail) : 0;
    memmove(tail, tail + skipped, (size_t)got - skipped);
    return (size_t)got - skipped;
}

/* What is written meanwhile is cut too, or stays in the file. */
static void cut(off_t size)
{
    size_t keep = (size_t)limit_bytes / 4;
    char *tail = malloc(keep);
    size_t kept = tail ? read_tail(tail, keep, size) : 0;
    if (ftruncate(FILE_ON, 0) == 0) {
        dprintf(FILE_ON, "jetdr: this file was longer than %lld bytes: the oldest %lld were cut\n",
                (long long)limit_bytes, (long long)size - (long long)kept);
        for (size_t done = 0; done < kept;) {
            ssize_t count = write(FILE_ON, tail + done, kept - done);
            if (count <= 0)
                break;
            done += (size_t)count;
        }
    }
    free(tail);
}

static void *watch(void *context)
{
    struct pollfd stop = {stopping, POLLIN, 0};
    while (poll(&stop, 1, LOOK_MS) <= 0) {
        struct stat status;
        if (fstat(FILE_ON, &status) == 0 && status.st_size > limit_bytes)
            cut(status.st_size);
    }
    return NULL;
}

int host_log_start(int64_t limit, char *message)
{
    if (!limit)
        return 0;
    struct stat status;
    int flags = fcntl(FILE_ON, F_GETFL);
    if (fstat(FILE_ON, &status) || !S_ISREG(status.st_mode) || flags < 0 || !(flags & O_APPEND))
        return host_refuse(EINVAL, message, "log-limit=%lld: standard error is no file that is appended to",
                           (long long)limit);
    limit_bytes = (off_t)limit;
    stopping = eventfd(0, EFD_CLOEXEC);
    int result = stopping < 0 ? errno : pthread_create(&thread, NULL, watch, NULL);
    if (!result)
        return 0;
    if (stopping >= 0)
        close(stopping);
    stopping = -1;
    return host_refuse(result, message, "log-limit=: %s", strerrordesc_np(result));
}

void host_log_stop(void)
{
    if (stopping < 0)
        return;
    eventfd_write(stopping, 1);
    pthread_join(thread, NULL);
    close(stopping);
    stopping = -1;
}
