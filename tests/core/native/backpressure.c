/*
 * backpressure.c: what backpressure.h promises, one promise an argument. Prints "kept", or ends with what was not.
 *
 *   backpressure light | rate | once | budget | window | at-once | longest | refill | still
 */
#include "core/backpressure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define MS 1000000ll
#define S 1000000000ll

static struct jdr_backpressure disk;
static struct jdr_pressure pressure = {.bytes_per_s = MIB, .delay_max_ns = 500 * MS, .budget_ns = 3 * S};
static int64_t now = 1000 * S;

static void must(bool kept, const char *promise)
{
    if (!kept) {
        printf("not kept: %s\n", promise);
        exit(1);
    }
}

static int64_t delay(uint64_t weight)
{
    return jdr_backpressure_delay(&disk, &pressure, weight, now);
}

/* One guest that writes as quickly as it is let, for so long. Returns how long it waited. */
static int64_t write_for(int64_t limit, uint64_t weight, int64_t own, uint64_t *bytes)
{
    int64_t waited = 0, until = now + limit;
    while (now < until) {
        int64_t one = delay(weight);
        must(one >= 0 && one <= pressure.delay_max_ns, "no write waits longer than the longest delay");
        waited += one;
        now += one + own;
        *bytes += weight;
    }
    return waited;
}

static void light(void)
{
    for (int i = 0; i < 1000; i++, now += 10 * MS)
        must(delay(8 * KIB) == 0, "a disk that writes less than its part is never delayed");
}

static void rate(void)
{
    uint64_t bytes = 0;
    pressure.budget_ns = 30 * S;
    write_for(10 * S, 64 * KIB, 1, &bytes);
    must(bytes > 9 * MIB && bytes < 11 * MIB, "a disk that writes more gets its part");
}

/* Many writes at the same time, each delayed, cost the time once. */
static void once(void)
{
    int64_t longest = 0;
    for (int i = 0; i < 64; i++) {
        int64_t one = delay(64 * KIB);
        longest = one > longest ? one : longest;
    }
    must(longest == 500 * MS, "they queue up to the longest delay");
    must(jdr_backpressure_left(&disk, &pressure, now) == 1000 * MS - longest,
         "the disk waited that long, not 64 times");
    jdr_backpressure_charge(&disk, &pressure, now, now + longest);
    must(jdr_backpressure_left(&disk, &pressure, now) == 1000 * MS - longest, "nor once more for a wait inside it");
}

static void budget(void)
{
    uint64_t bytes = 0;
    pressure.bytes_per_s = 1;
    int64_t waited = write_for(600 * S, 64 * KIB, MS, &bytes);
    must(waited > 110 * S && waited < 125 * S, "two of three seconds of the budget come evenly: 20 % of the time");
}

static void window(void)
{
    int64_t waits[100] = {0};
    pressure.bytes_per_s = 1;
    now += 100 * S; /* idle */
    for (int64_t begun = now; now - begun < 100 * S;) {
        int64_t one = delay(64 * KIB), at = (now - begun) / S;
        waits[at] += one;
        now += one + MS;
    }
    for (int i = 0; i + 10 <= 100; i++) {
        int64_t sum = 0;
        for (int j = 0; j < 10; j++)
            sum += waits[i + j];
        must(sum <= pressure.budget_ns + 10 * MS, "no 10 s cost more than the budget");
    }
}

static void at_once(void)
{
    jdr_backpressure_charge(&disk, &pressure, now, now + 5 * S);
    now += 5 * S;
    must(jdr_backpressure_left(&disk, &pressure, now) == 0, "a wait that was too long is owed");
    must(delay(MIB) == 0 && delay(MIB) == 0, "and nothing more is waited for");
    now += 60 * S;
    must(jdr_backpressure_left(&disk, &pressure, now) == S, "the debt is paid off in time");
}

static void longest(void)
{
    pressure.bytes_per_s = 1;
    delay(32 * MIB);
    must(delay(32 * MIB) == 500 * MS, "a write waits no longer than the longest delay, however little is allowed");
    now += 500 * MS;
    must(delay(4 * KIB) <= 500 * MS, "what is owed beyond that is forgiven");
}

static void refill(void)
{
    jdr_backpressure_charge(&disk, &pressure, now, now + S);
    must(jdr_backpressure_left(&disk, &pressure, now + S) == 200 * MS, "a fifth of the time comes back");
    must(jdr_backpressure_left(&disk, &pressure, now) == 200 * MS, "and a clock that goes back takes nothing");
    must(jdr_backpressure_left(&disk, &pressure, now + 100 * S) == S, "never more than may be spent at once");
}

static void still(void)
{
    pressure.bytes_per_s = 0;
    for (int i = 0; i < 100; i++)
        must(delay(MIB) == 0, "without a limit nothing waits");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*promise)(void);
    } promises[] = {{"light", light},     {"rate", rate},     {"once", once},
                    {"budget", budget},   {"window", window}, {"at-once", at_once},
                    {"longest", longest}, {"refill", refill}, {"still", still}};
    for (size_t i = 0; i < sizeof promises / sizeof *promises; i++)
        if (argc == 2 && !strcmp(argv[1], promises[i].name)) {
            promises[i].promise();
            puts("kept");
            return 0;
        }
    return 2;
}
