/* device.c: a jdr_device on a file descriptor. Short transfers and EINTR are finished here, so that callers see whole I/O. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jetdr.h"

#define IOV_MAX_HERE 16

static int fd_read(const struct jdr_device *device, uint64_t offset, void *target, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(device->fd, (char *)target + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -EIO; /* the device ended before its size */
        done += (size_t)got;
    }
    return 0;
}

static int fd_write(const struct jdr_device *device, uint64_t offset, const struct iovec *iov, int iov_count)
{
    struct iovec left[IOV_MAX_HERE];
    if (iov_count > IOV_MAX_HERE)
        return -EINVAL;
    memcpy(left, iov, (size_t)iov_count * sizeof *iov);
    for (int first = 0; first < iov_count;) {
        ssize_t put = pwritev(device->fd, left + first, iov_count - first, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? -errno : -EIO;
        offset += (uint64_t)put;
        for (; first < iov_count && (size_t)put >= left[first].iov_len; first++)
            put -= (ssize_t)left[first].iov_len;
        if (first < iov_count) {
            left[first].iov_base = (char *)left[first].iov_base + put;
            left[first].iov_len -= (size_t)put;
        }
    }
    return 0;
}

static int write_zeros(const struct jdr_device *device, uint64_t offset, uint64_t length)
{
    static _Alignas(4096) const char zeros[256 << 10];
    while (length) {
        size_t chunk = length < sizeof zeros ? (size_t)length : sizeof zeros;
        struct iovec iov = {(void *)zeros, chunk};
        int result = fd_write(device, offset, &iov, 1);
        if (result)
            return result;
        offset += chunk;
        length -= chunk;
    }
    return 0;
}

/* Deallocate where that is certain to read back as zeros (files; block devices whose kernel promises it), else write them. */
static int fd_zero(const struct jdr_device *device, uint64_t offset, uint64_t length)
{
    if (!length)
        return 0;
    int result;
    do
        result = fallocate(device->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    while (result && errno == EINTR);
    if (result == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL && errno != ENODEV)
        return -errno;
    return write_zeros(device, offset, length);
}

static int fd_sync(const struct jdr_device *device)
{
    int result;
    do
        result = fdatasync(device->fd);
    while (result && errno == EINTR);
    return result ? -errno : 0;
}

void jdr_device_from_fd(struct jdr_device *device, int fd, uint32_t block_bytes)
{
    *device = (struct jdr_device){fd_read, fd_write, fd_zero, fd_sync, NULL, fd, block_bytes};
}
