/*
 * pace.c: what pace.h promises, one promise an argument. Prints "kept", or ends with what was not.
 *
 *   pace slow | quick | light | small | counts
 */
#include "core/pace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1ull << 20)
#define MS 1000000ll

static struct jdr_pace pace;

static void must(bool kept, const char *promise)
{
    if (!kept) {
        printf("not kept: %s\n", promise);
        exit(1);
    }
}

/* The primary takes so much, and is flushed. */
static void period(uint64_t weight, int64_t taking_ms, int64_t flushing_ms)
{
    jdr_pace_add(&pace, weight);
    jdr_pace_taken(&pace, weight, taking_ms * MS);
    jdr_pace_flushed(&pace, flushing_ms * MS);
}

static void slow(void)
{
    period(8 * MIB, 1000, 3000);
    must(pace.allowed == 2 * MIB, "a primary that took 8 MiB in 4 s may lag by 2 MiB");
    must(!jdr_pace_exceeds(&pace, 8 * MIB), "a primary that has everything takes a record of any length");
    jdr_pace_add(&pace, MIB);
    must(!jdr_pace_exceeds(&pace, MIB), "what is allowed may be used up");
    must(jdr_pace_exceeds(&pace, MIB + 1), "and no more");
}

static void quick(void)
{
    period(4 * MIB, 10, 20);
    must(pace.allowed == 16 * MIB, "a quick period doubles what is allowed");
    for (int i = 0; i < 100; i++)
        period(pace.allowed, 10, 20);
    must(pace.allowed == 1ull << 40, "it is bounded");
}

static void light(void)
{
    for (int i = 0; i < 100; i++)
        period(4096, 1, 1);
    must(pace.allowed == 8 * MIB, "a quick period that used little says nothing of a long one");
}

static void small(void)
{
    period(4096, 0, 60000);
    must(pace.allowed == MIB, "a primary may always lag by 1 MiB");
}

static void counts(void)
{
    jdr_pace_add(&pace, 100);
    jdr_pace_taken(&pace, 70, MS);
    must(pace.lacking == 100, "what was taken is lacking until the flush");
    jdr_pace_flushed(&pace, MS);
    must(pace.lacking == 30, "and not after it");
    jdr_pace_subtract(&pace, 50);
    must(pace.lacking == 0, "what an earlier host logged is never counted twice");
    jdr_pace_add(&pace, 100);
    uint32_t seen = pace.moved;
    jdr_pace_settled(&pace);
    must(pace.lacking == 0 && pace.moved != seen, "who waits is woken once nothing is lacking");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*promise)(void);
    } promises[] = {{"slow", slow}, {"quick", quick}, {"light", light}, {"small", small}, {"counts", counts}};
    jdr_pace_init(&pace);
    for (size_t i = 0; i < sizeof promises / sizeof *promises; i++)
        if (argc == 2 && strcmp(argv[1], promises[i].name) == 0) {
            promises[i].promise();
            puts("kept");
            return 0;
        }
    return 2;
}
