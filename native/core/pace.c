/* pace.c: see pace.h. */
#include "pace.h"

#define ALLOWED_FIRST (8ull << 20)
#define ALLOWED_MIN (1ull << 20)
#define ALLOWED_MAX (1ull << 40)
#define RECORD_WEIGHT 4096

void jdr_pace_init(struct jdr_pace *pace)
{
    *pace = (struct jdr_pace){.allowed = ALLOWED_FIRST, .stuck_at = UINT64_MAX};
}

uint64_t jdr_pace_weight(uint64_t payload_bytes)
{
    return payload_bytes + RECORD_WEIGHT;
}

void jdr_pace_add(struct jdr_pace *pace, uint64_t weight)
{
    atomic_fetch_add(&pace->lacking, weight);
}

void jdr_pace_subtract(struct jdr_pace *pace, uint64_t weight)
{
    uint64_t lacking = atomic_load(&pace->lacking);
    while (!atomic_compare_exchange_weak(&pace->lacking, &lacking, lacking > weight ? lacking - weight : 0))
        ;
    jdr_futex_wake(&pace->moved);
}

bool jdr_pace_exceeds(const struct jdr_pace *pace, uint64_t weight)
{
    uint64_t lacking = atomic_load(&pace->lacking);
    return lacking && lacking + weight > atomic_load(&pace->allowed);
}

void jdr_pace_taken(struct jdr_pace *pace, uint64_t weight, int64_t took_ns)
{
    pace->taken += weight;
    pace->busy_ns += took_ns;
}

/* What the next period may have, after one in which the primary took so much in that time. */
static uint64_t allow(uint64_t allowed, uint64_t taken, int64_t took_ns)
{
    if (took_ns > JDR_PACE_NS)
        allowed = (uint64_t)((double)taken * JDR_PACE_NS / (double)took_ns);
    else if (took_ns < JDR_PACE_NS / 4 && taken >= allowed / 4)
        allowed *= 2;
    return allowed < ALLOWED_MIN ? ALLOWED_MIN : allowed > ALLOWED_MAX ? ALLOWED_MAX : allowed;
}

void jdr_pace_flushed(struct jdr_pace *pace, int64_t took_ns)
{
    if (!pace->taken)
        return;
    atomic_store(&pace->allowed, allow(atomic_load(&pace->allowed), pace->taken, pace->busy_ns + took_ns));
    uint64_t taken = pace->taken;
    pace->taken = 0;
    pace->busy_ns = 0;
    jdr_pace_subtract(pace, taken);
}

void jdr_pace_settled(struct jdr_pace *pace)
{
    atomic_store(&pace->lacking, 0);
    jdr_futex_wake(&pace->moved);
}
