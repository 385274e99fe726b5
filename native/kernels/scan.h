/* Scans over whole batches: payload checksums, and which blocks are zero.
 *
 * Pure loops over memory the caller owns; no allocation, no Python, no state, so any thread may call them.
 * Talks to: the record header's layout (struct jdr_record of jetdr.h, repeated here as offsets), xxhash.
 */
#ifndef JETDR_SCAN_H
#define JETDR_SCAN_H

#include <stddef.h>
#include <stdint.h>

enum {
    JDR_SCAN_RECORD_BYTES = 64,
    JDR_SCAN_RECORD_CHECKSUM_AT = 32,
    JDR_SCAN_RECORD_PAYLOAD_BYTES_AT = 44,
};

/* Index of the first of `count` record headers whose payload is not what its checksum says, or reaches past the
 * `payload_bytes` bytes of `payload`; -1 if all are good. A record without payload must carry checksum 0. */
int64_t jdr_scan_payloads(const uint8_t *headers, size_t count, const uint8_t *payload, size_t payload_bytes);

/* Set flags[i] to 1 where block i of `payload` is all zeros, else 0. The last block may be short; `flags` holds
 * ceil(payload_bytes / block_bytes) bytes; block_bytes > 0. */
void jdr_scan_zeros(const uint8_t *payload, size_t payload_bytes, size_t block_bytes, uint8_t *flags);

#endif
