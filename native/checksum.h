/*
 * checksum.h: XXH3-64 of payloads (seed 0, see doc/xxhash_spec.md of xxhash), with AVX2 where the processor has it.
 *
 * xxhash.h chooses its vector instructions when it is compiled. Compiled for every x86-64, it has only SSE2. Its
 * run-time dispatch is no part of the header. So it is compiled twice, and checksum.c chooses.
 */
#ifndef JETDR_CHECKSUM_H
#define JETDR_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>

/* Of `length` bytes at once. */
extern uint64_t (*jdr_checksum)(const void *data, size_t length);

/* Of bytes that come in pieces: call XXH3_64bits_reset, then jdr_checksum_more for each, then XXH3_64bits_digest. */
extern void (*jdr_checksum_more)(XXH3_state_t *state, const void *data, size_t length);

/* The variants, each compiled for one kind of processor. */
uint64_t jdr_checksum_any(const void *data, size_t length);
void jdr_checksum_more_any(XXH3_state_t *state, const void *data, size_t length);
uint64_t jdr_checksum_avx2(const void *data, size_t length);
void jdr_checksum_more_avx2(XXH3_state_t *state, const void *data, size_t length);

#endif
