/* checksum.c: the checksum for any processor, and the choice of a variant. See checksum.h. */
#include "checksum.h"

uint64_t jdr_checksum_any(const void *data, size_t length)
{
    return XXH3_64bits(data, length);
}

void jdr_checksum_more_any(XXH3_state_t *state, const void *data, size_t length)
{
    XXH3_64bits_update(state, data, length);
}

uint64_t (*jdr_checksum)(const void *data, size_t length) = jdr_checksum_any;
void (*jdr_checksum_more)(XXH3_state_t *state, const void *data, size_t length) = jdr_checksum_more_any;

#ifdef __x86_64__
/* Runs before all other code of this library. */
__attribute__((constructor)) static void choose(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) {
        jdr_checksum = jdr_checksum_avx2;
        jdr_checksum_more = jdr_checksum_more_avx2;
    }
}
#endif
