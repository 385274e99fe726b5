/* checksum_avx2.c: the checksum for processors with AVX2. See checksum.h. */
#ifdef __x86_64__
#pragma GCC target("avx2")
#include "checksum.h"

uint64_t jdr_checksum_avx2(const void *data, size_t length)
{
    return XXH3_64bits(data, length);
}

void jdr_checksum_more_avx2(XXH3_state_t *state, const void *data, size_t length)
{
    XXH3_64bits_update(state, data, length);
}
#endif
