/*
 * simulation.h: how a simulation takes the machine's place, for tests. Only the Python binding sets it.
 *
 * In a simulation one thread of the process runs at a time. Every thread of the core that would wait calls `pause`,
 * which lets other threads run. It returns when *word has left `seen`, or when limit_ns is over. With `word` NULL any
 * thread may have changed what is waited for. Deadlines are those of `clock`. Both are set before anything else of the
 * core is called, and never changed. By default `pause` is NULL, and the machine decides who runs and what time it is.
 */
#ifndef JETDR_SIMULATION_H
#define JETDR_SIMULATION_H

#include "jetdr.h"

struct jdr_simulation {
    const struct jdr_clock *clock;
    void (*pause)(_Atomic uint32_t *word, uint32_t seen, int64_t limit_ns);
};
extern struct jdr_simulation jdr_simulation;

#endif
