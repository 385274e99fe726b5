/*
 * threads.h: what threads that share memory need of the machine: cache lines, the monotonic clock, and ways to wait.
 *
 * Invariant: a thread of the core waits through this file only. So a simulation can let one thread run at a time, and
 * keep the time itself (simulation.h).
 */
#ifndef JETDR_THREADS_H
#define JETDR_THREADS_H

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "simulation.h"

#define JDR_LINE _Alignas(64)

static inline bool jdr_simulated(void)
{
    return jdr_simulation.pause != NULL;
}

static inline int64_t jdr_monotonic_ns(void)
{
    struct timespec now;
    if (jdr_simulated())
        return atomic_load(&jdr_simulation.clock->monotonic_ns);
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
    if (jdr_simulated())
        jdr_simulation.pause(word, seen, limit_ns);
    else
        syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT, seen, &limit, NULL, 0);
}

/* Advance *word and wake all that wait for it. */
static inline void jdr_futex_wake(_Atomic uint32_t *word)
{
    atomic_fetch_add(word, 1);
    if (!jdr_simulated())
        syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static inline void jdr_sleep(int64_t ns)
{
    struct timespec time = jdr_timespec(ns);
    _Atomic uint32_t never = 0;
    if (jdr_simulated())
        jdr_simulation.pause(&never, 0, ns);
    else
        nanosleep(&time, NULL);
}

/* Lock a mutex whose owner may wait meanwhile. 0, or what pthread_mutex_clocklock returns. No deadline: INT64_MAX. */
static inline int jdr_lock_until(pthread_mutex_t *mutex, int64_t deadline_ns)
{
    struct timespec deadline = jdr_timespec(deadline_ns);
    if (!jdr_simulated())
        return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &deadline);
    int result;
    while ((result = pthread_mutex_trylock(mutex)) == EBUSY) {
        int64_t left = deadline_ns - jdr_monotonic_ns();
        if (left <= 0)
            return ETIMEDOUT;
        jdr_simulation.pause(NULL, 0, left);
    }
    return result;
}

/* Wait for a broadcast, with the mutex held. 0 or ETIMEDOUT. Spurious returns are allowed. No deadline: INT64_MAX. */
static inline int jdr_wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex, int64_t deadline_ns)
{
    struct timespec deadline = jdr_timespec(deadline_ns);
    if (!jdr_simulated())
        return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &deadline);
    int64_t left = deadline_ns - jdr_monotonic_ns();
    if (left <= 0)
        return ETIMEDOUT;
    pthread_mutex_unlock(mutex);
    jdr_simulation.pause(NULL, 0, left);
    pthread_mutex_lock(mutex);
    return 0;
}

#endif
