/*
 * scan.h: scans over whole batches: payload checksums, and which blocks are zero.
 *
 * Pure loops over the caller's memory: no allocation, no state, no Python, so any thread may call them. The layout of a
 * record's header is that of struct jdr_record in jetdr.h, given here as offsets.
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

/*
 * The index of the first of `count` records whose payload does not match its checksum or ends beyond `payload_bytes`.
 * -1 if there is none. Payloads lie back to back in `payload`. A record without payload must have checksum 0.
 */
int64_t jdr_scan_payloads(const uint8_t *headers, size_t count, const uint8_t *payload, size_t payload_bytes);

/*
 * Set flags[i] to 1 if block i of `payload` is all zeros, else to 0. block_bytes is positive, and the last block may be
 * short. `flags` has room for ceil(payload_bytes / block_bytes) bytes.
 */
void jdr_scan_zeros(const uint8_t *payload, size_t payload_bytes, size_t block_bytes, uint8_t *flags);

#endif
