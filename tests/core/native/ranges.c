/*
 * ranges.c: what ranges.h promises, one promise an argument. Prints "kept", or ends with what was not.
 *
 *   ranges order | apart | share | close | settle
 */
#include "core/ranges.h"
#include "core/room.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct jdr_ranges ranges;
static const struct jdr_room plenty = {~0ull >> 1};

static void must(bool kept, const char *promise)
{
    if (!kept) {
        printf("not kept: %s\n", promise);
        exit(1);
    }
}

static struct jdr_range range(uint64_t begin, uint64_t end)
{
    return (struct jdr_range){.begin = begin, .end = end};
}

static void release(struct jdr_range *held)
{
    jdr_ranges_release(&ranges, held);
    jdr_ranges_unlock(&ranges);
}

static uint32_t waiting(void)
{
    pthread_mutex_lock(&ranges.mutex);
    uint32_t count = ranges.waiting;
    pthread_mutex_unlock(&ranges.mutex);
    return count;
}

static void until_waiting(uint32_t count)
{
    while (waiting() != count)
        sched_yield();
}

/* ---- order ------------------------------------------------------------------------------------------------------ */

static _Atomic int turn;

struct waiter {
    pthread_t thread;
    struct jdr_range range;
    int expected;
};

static void *hold_in_turn(void *argument)
{
    struct waiter *waiter = argument;
    jdr_ranges_hold(&ranges, &waiter->range, plenty);
    must(atomic_fetch_add(&turn, 1) == waiter->expected, "overlapping ranges are held in order of arrival");
    release(&waiter->range);
    return NULL;
}

static void check_order(void)
{
    struct waiter waiters[4];
    struct jdr_range first = range(0, 100);
    jdr_ranges_hold(&ranges, &first, plenty);
    for (int i = 0; i < 4; i++) {
        waiters[i] = (struct waiter){.range = range((uint64_t)i * 10, 100), .expected = i};
        pthread_create(&waiters[i].thread, NULL, hold_in_turn, &waiters[i]);
        until_waiting((uint32_t)i + 1);
    }
    must(turn == 0, "a range waits for an older one that it overlaps");
    release(&first);
    for (int i = 0; i < 4; i++)
        pthread_join(waiters[i].thread, NULL);
    must(ranges.overlaps_waited == 4 && !ranges.newest, "all were counted, and are gone");
}

static void check_apart(void)
{
    struct jdr_range held[3] = {range(0, 10), range(10, 20), range(20, 30)};
    for (int i = 0; i < 3; i++)
        must(jdr_ranges_hold(&ranges, &held[i], plenty), "ranges that only touch are held at once");
    release(&held[1]);
    release(&held[2]);
    must(!held[2].held && held[0].held && ranges.newest == &held[0], "ranges are given back in any order");
    release(&held[0]);
    must(!ranges.overlaps_waited, "none waited");
}

/* ---- share ------------------------------------------------------------------------------------------------------ */

static void check_share(void)
{
    struct jdr_room share = jdr_room_of(2, 8192);
    struct jdr_range first = range(0, 1), second = range(1, 2), unlogged = range(2, 3);
    first.room = jdr_room_for(4096);
    second.room = jdr_room_for(4096 + JDR_SECTOR);
    must(jdr_ranges_hold(&ranges, &first, share), "a range within the share is held");
    must(!jdr_ranges_hold(&ranges, &second, share), "a range beyond the share is not");
    must(!second.held && ranges.newest == &first, "... and leaves no trace");
    must(jdr_ranges_hold(&ranges, &unlogged, share), "a range without room always is");
    must(jdr_ranges_wait_share(&ranges, second.room, share, jdr_monotonic_ns()) == -EBUSY, "a wait has a limit");
    release(&first);
    must(!jdr_ranges_wait_share(&ranges, second.room, share, jdr_monotonic_ns()), "then there is a share again");
    must(jdr_ranges_hold(&ranges, &second, share), "... and the range is held");
    release(&second);
    release(&unlogged);
    must(!ranges.in_flight.taken, "all room was counted back");
}

/* ---- close ------------------------------------------------------------------------------------------------------ */

static _Atomic bool closed;

static void *close_all(void *unused)
{
    jdr_ranges_close(&ranges);
    closed = true;
    return unused;
}

static void leave(void)
{
    pthread_mutex_lock(&ranges.mutex);
    jdr_ranges_leave(&ranges);
}

static void check_close(void)
{
    pthread_t thread;
    must(jdr_ranges_enter(&ranges) && jdr_ranges_enter(&ranges), "calls are let in");
    pthread_create(&thread, NULL, close_all, NULL);
    until_waiting(1);
    must(!jdr_ranges_enter(&ranges), "none is once the disk is being closed");
    leave();
    must(!closed, "closing waits for every call inside");
    leave();
    pthread_join(thread, NULL);
    jdr_ranges_close(&ranges);
    must(!jdr_ranges_enter(&ranges), "closed is closed, also twice");
}

/* ---- settle ----------------------------------------------------------------------------------------------------- */

static _Atomic bool settled;

static void *settle(void *unused)
{
    must(!jdr_ranges_wait_released(&ranges, INT64_MAX), "a wait without a limit ends");
    settled = true;
    return unused;
}

static void check_settle(void)
{
    pthread_t thread;
    struct jdr_range first = range(0, 10), second = range(20, 30), later = range(40, 50);
    must(!jdr_ranges_wait_released(&ranges, 0), "nothing is waited for if nothing is held");
    jdr_ranges_hold(&ranges, &first, plenty);
    jdr_ranges_hold(&ranges, &second, plenty);
    must(jdr_ranges_wait_released(&ranges, jdr_monotonic_ns()) == -ETIMEDOUT, "a wait has a limit");
    pthread_create(&thread, NULL, settle, NULL);
    until_waiting(1);
    jdr_ranges_hold(&ranges, &later, plenty);
    release(&second);
    must(!settled, "every range that was held is waited for");
    release(&first);
    pthread_join(thread, NULL);
    must(later.held, "... and none that came later");
    release(&later);
}

int main(int count, char **arguments)
{
    const char *promise = count > 1 ? arguments[1] : "";
    jdr_ranges_init(&ranges);
    if (!strcmp(promise, "order"))
        check_order();
    else if (!strcmp(promise, "apart"))
        check_apart();
    else if (!strcmp(promise, "share"))
        check_share();
    else if (!strcmp(promise, "close"))
        check_close();
    else if (!strcmp(promise, "settle"))
        check_settle();
    else
        return 2;
    jdr_ranges_destroy(&ranges);
    puts("kept");
    return 0;
}
