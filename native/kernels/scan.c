/*
 * scan.c: payload checksums and zero blocks. No byte outside the given lengths is read.
 */
#include "scan.h"

#include <string.h>

#include "checksum.h"

static uint64_t load_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t load_u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

int64_t jdr_scan_payloads(const uint8_t *headers, size_t count, const uint8_t *payload, size_t payload_bytes)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *header = headers + i * JDR_SCAN_RECORD_BYTES;
        size_t length = load_u32(header + JDR_SCAN_RECORD_PAYLOAD_BYTES_AT);
        if (length > payload_bytes - used)
            return (int64_t)i;
        uint64_t checksum = length ? jdr_checksum(payload + used, length) : 0;
        if (checksum != load_u64(header + JDR_SCAN_RECORD_CHECKSUM_AT))
            return (int64_t)i;
        used += length;
    }
    return -1;
}

/*
 * A block is zero if its first 16 bytes are zero and each later byte equals the byte 16 places before it. memcmp runs
 * that comparison faster than a loop of our own.
 */
static int is_zero(const uint8_t *block, size_t length)
{
    static const uint8_t zeros[16];
    size_t head = length < sizeof zeros ? length : sizeof zeros;
    if (memcmp(block, zeros, head) != 0)
        return 0;
    return length <= sizeof zeros || memcmp(block, block + sizeof zeros, length - sizeof zeros) == 0;
}

void jdr_scan_zeros(const uint8_t *payload, size_t payload_bytes, size_t block_bytes, uint8_t *flags)
{
    for (size_t at = 0; at < payload_bytes;) {
        size_t left = payload_bytes - at;
        size_t length = left < block_bytes ? left : block_bytes;
        *flags++ = (uint8_t)is_zero(payload + at, length);
        at += length;
    }
}
