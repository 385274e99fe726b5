/*
 * device.c: a jdr_device on a file descriptor. It finishes short transfers and repeats what EINTR ended, so callers see
 * whole I/O. Memory that direct I/O cannot use goes through a buffer.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jetdr.h"

#define IOV_MAX_HERE 16
#define BOUNCE_BYTES (1u << 20)

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

/* ---- direct I/O ------------------------------------------------------------------------------------------------- */

static bool is_aligned(const struct jdr_device *device, const void *memory, size_t length)
{
    return ((uintptr_t)memory | length) % device->block_bytes == 0;
}

static uint8_t *bounce_buffer(size_t length)
{
    void *buffer;
    return posix_memalign(&buffer, JDR_BLOCK, length < BOUNCE_BYTES ? length : BOUNCE_BYTES) ? NULL : buffer;
}

static int direct_read(const struct jdr_device *device, uint64_t offset, void *target, size_t length)
{
    if (is_aligned(device, target, length))
        return fd_read(device, offset, target, length);
    uint8_t *buffer = bounce_buffer(length);
    int result = buffer ? 0 : -ENOMEM;
    for (size_t done = 0, piece; !result && done < length; done += piece) {
        piece = length - done < BOUNCE_BYTES ? length - done : BOUNCE_BYTES;
        if ((result = fd_read(device, offset + done, buffer, piece)) == 0)
            memcpy((uint8_t *)target + done, buffer, piece);
    }
    free(buffer);
    return result;
}

static int write_buffer(const struct jdr_device *device, uint64_t offset, uint8_t *buffer, size_t length)
{
    struct iovec iov = {buffer, length};
    return fd_write(device, offset, &iov, 1);
}

/* Gather the pieces in the buffer, and write the buffer whenever it is full. */
static int write_bounced(const struct jdr_device *device, uint64_t offset, const struct iovec *iov, int iov_count,
                         uint8_t *buffer)
{
    size_t filled = 0;
    int result = 0;
    for (int i = 0; i < iov_count; i++)
        for (size_t done = 0, piece; !result && done < iov[i].iov_len; done += piece) {
            piece = iov[i].iov_len - done < BOUNCE_BYTES - filled ? iov[i].iov_len - done : BOUNCE_BYTES - filled;
            memcpy(buffer + filled, (uint8_t *)iov[i].iov_base + done, piece);
            if ((filled += piece) == BOUNCE_BYTES) {
                result = write_buffer(device, offset, buffer, filled);
                offset += filled;
                filled = 0;
            }
        }
    return result || !filled ? result : write_buffer(device, offset, buffer, filled);
}

static int direct_write(const struct jdr_device *device, uint64_t offset, const struct iovec *iov, int iov_count)
{
    bool aligned = true;
    size_t length = 0;
    for (int i = 0; i < iov_count; i++) {
        aligned &= is_aligned(device, iov[i].iov_base, iov[i].iov_len);
        length += iov[i].iov_len;
    }
    if (aligned)
        return fd_write(device, offset, iov, iov_count);
    uint8_t *buffer = bounce_buffer(length);
    int result = buffer ? write_bounced(device, offset, iov, iov_count, buffer) : -ENOMEM;
    free(buffer);
    return result;
}

/* ---- zeros and flushes ------------------------------------------------------------------------------------------ */

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

static int allocate(int fd, int mode, uint64_t offset, uint64_t length)
{
    int result;
    do
        result = fallocate(fd, mode, (off_t)offset, (off_t)length);
    while (result && errno == EINTR);
    return result ? -errno : 0;
}

static bool not_supported(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL || result == -ENODEV;
}

/* Deallocate if the range is then certain to read as zeros (the kernel promises that or refuses), else write them. */
static int zero_deallocated(const struct jdr_device *device, uint64_t offset, uint64_t length)
{
    int result = allocate(device->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    return not_supported(result) ? write_zeros(device, offset, length) : result;
}

/* Zeros that keep their space. If the file system cannot do that in one step, make a hole and fill it. */
static int zero_allocated(const struct jdr_device *device, uint64_t offset, uint64_t length)
{
    int result = allocate(device->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
    if (!not_supported(result))
        return result;
    result = zero_deallocated(device, offset, length);
    if (!result)
        result = allocate(device->fd, 0, offset, length);
    return not_supported(result) ? 0 : result; /* perhaps not allocated, but it reads as zeros */
}

static int fd_zero(const struct jdr_device *device, uint64_t offset, uint64_t length, bool may_discard)
{
    if (!length)
        return 0;
    return may_discard ? zero_deallocated(device, offset, length) : zero_allocated(device, offset, length);
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
    *device = (struct jdr_device){fd_read, fd_write, fd_zero, fd_sync, NULL, fd, JDR_SECTOR};
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && flags & O_DIRECT) {
        device->read = direct_read;
        device->write = direct_write;
        device->block_bytes = block_bytes;
    }
}
