/*
 * threads.h: what threads that share memory need of the machine: cache lines, the monotonic clock, futexes.
 */
#ifndef JETDR_THREADS_H
#define JETDR_THREADS_H

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define JDR_LINE _Alignas(64)

static inline int64_t jdr_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static inline struct timespec jdr_timespec(int64_t ns)
{
    return (struct timespec){ns / 1000000000ll, ns % 1000000000ll};
}

/* Wait until *word leaves `seen`, someone wakes it, or the time is over. Spurious returns are allowed. */
static inline void jdr_futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t limit_ns)
{
    struct timespec limit = jdr_timespec(limit_ns);
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT, seen, &limit, NULL, 0);
}

/* Advance *word and wake all that wait for it. */
static inline void jdr_futex_wake(_Atomic uint32_t *word)
{
    atomic_fetch_add(word, 1);
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

#endif
