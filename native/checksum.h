/*
 * checksum.h: XXH3-64 (seed 0; xxhash's doc/xxhash_spec.md) of payloads, with AVX2 where the processor has it.
 *
 * xxhash.h chooses its vector instructions when it is compiled, and what is compiled for every x86-64 knows only SSE2;
 * its run-time dispatch is no part of the header. So it is compiled twice, and checksum.c chooses.
 */
#ifndef JETDR_CHECKSUM_H
#define JETDR_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>

/* Of `length` bytes at once. */
extern uint64_t (*jdr_checksum)(const void *data, size_t length);

/* Of bytes that come in pieces: XXH3_64bits_reset, jdr_checksum_more for each, XXH3_64bits_digest. */
extern void (*jdr_checksum_more)(XXH3_state_t *state, const void *data, size_t length);

/* What is compiled for one processor. */
uint64_t jdr_checksum_any(const void *data, size_t length);
void jdr_checksum_more_any(XXH3_state_t *state, const void *data, size_t length);
uint64_t jdr_checksum_avx2(const void *data, size_t length);
void jdr_checksum_more_avx2(XXH3_state_t *state, const void *data, size_t length);

#endif
