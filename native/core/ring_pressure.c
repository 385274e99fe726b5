/*
 * ring_pressure.c: what overload may cost guests, as the DRVA writes it into the ring (backpressure.h).
 *
 * Invariants: what nobody renews delays nobody. Whoever sleeps here is woken when nothing is delayed any more.
 */
#include "ring.h"
#include "ring_shared.h"

void jdr_ring_set_pressure(jdr_ring *ring, const struct jdr_pressure *pressure)
{
    struct jdr_ring_shared *shared = ring->shared;
    uint64_t before = atomic_exchange(&shared->pressure_bytes_per_s, pressure->bytes_per_s);
    atomic_store(&shared->pressure_delay_max_ns, pressure->delay_max_ns);
    atomic_store(&shared->pressure_budget_ns, pressure->budget_ns);
    atomic_store(&shared->pressure_until_ns, jdr_monotonic_ns() + pressure->valid_ns);
    if (before && !pressure->bytes_per_s)
        jdr_futex_wake(&shared->space_seq);
}

bool jdr_ring_delays(const jdr_ring *ring)
{
    return atomic_load_explicit(&ring->shared->pressure_bytes_per_s, memory_order_relaxed) != 0;
}

bool jdr_ring_pressure(const jdr_ring *ring, struct jdr_pressure *pressure)
{
    const struct jdr_ring_shared *shared = ring->shared;
    *pressure = (struct jdr_pressure){
        .bytes_per_s = atomic_load(&shared->pressure_bytes_per_s),
        .delay_max_ns = atomic_load(&shared->pressure_delay_max_ns),
        .budget_ns = atomic_load(&shared->pressure_budget_ns),
        .valid_ns = atomic_load(&shared->pressure_until_ns) - jdr_monotonic_ns(),
    };
    return pressure->valid_ns > 0;
}

bool jdr_ring_log_full(const jdr_ring *ring)
{
    return atomic_load_explicit(&ring->shared->log_full, memory_order_relaxed) &&
           atomic_load(&ring->shared->pressure_until_ns) > jdr_monotonic_ns();
}

void jdr_ring_sleep(jdr_ring *ring, int64_t until_ns)
{
    struct jdr_pressure pressure;
    for (;;) {
        uint32_t seen = atomic_load(&ring->shared->space_seq);
        int64_t left = until_ns - jdr_monotonic_ns();
        if (left <= 0 || jdr_refusal(ring) || !jdr_ring_pressure(ring, &pressure) || !pressure.bytes_per_s)
            return;
        jdr_futex_wait(&ring->shared->space_seq, seen, left < pressure.valid_ns ? left : pressure.valid_ns);
    }
}
