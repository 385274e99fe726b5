/*
 * record_clock.h: the time that a record gets, from the wall clock as far as the monotonic clock supports it.
 *
 * The wall clock may be wrong for a moment: a bad NTP answer, a bad hardware clock. Times of records never decrease, so
 * a record that bears a time of next year makes all later ones bear it as well, until next year. Then no instant tells
 * the records apart any more. So a step of the wall clock that the monotonic clock does not support is not followed at
 * once. Record times go on by the monotonic clock, and the wall clock is followed again when it comes back, or when it
 * has stayed where it went for JDR_CLOCK_CONFIRM_NS.
 *
 * A step that was followed leaves a doubt: the records around it may bear times at which they were not captured. The
 * DRVA takes the doubt and writes it into the history.
 *
 * After a step back the last time given out lies ahead of the wall clock, and without a remedy all records would bear
 * it until the wall clock has passed it. So record times go on from there, ahead of the wall clock by a *lead*. The
 * DRVA sets the lead, and writes it into the history as well. Readers take it off again. All other times here have the
 * lead in them.
 *
 * Invariants: the caller holds the lock of the LSN order. A producer may die between any two stores. `offset_ns` and
 * `away_monotonic_ns` each change with one store, and everything that they make valid is stored before.
 */
#ifndef JETDR_RECORD_CLOCK_H
#define JETDR_RECORD_CLOCK_H

#include <stdatomic.h>
#include <stdint.h>

#define JDR_CLOCK_STEP_NS 10000000000ll    /* a step up to this is followed at once */
#define JDR_CLOCK_CONFIRM_NS 60000000000ll /* a larger one when the clock has stayed there for so long */

/* All zero: nothing is known yet, and the first time is followed. */
struct jdr_record_clock {
    _Atomic int64_t offset_ns;         /* wall clock minus monotonic clock, where the wall clock was last followed */
    _Atomic int64_t followed_ns;       /* and when that was, on the monotonic clock */
    _Atomic int64_t away_monotonic_ns; /* when the wall clock was first seen elsewhere; 0: it is followed */
    _Atomic int64_t away_offset_ns;    /* where it was then, as offset_ns */
    _Atomic int64_t away_since_ns;     /* the last time given out before */
    _Atomic int64_t begun_ns;          /* the first time after the ring began, or after a step ahead was followed */
    _Atomic int64_t begun_after_ns;    /* the last time before that; 0: none */
    _Atomic int64_t doubted_since_ns;  /* the instants from there on are to be doubted; 0: none */
    _Atomic int64_t lead_ns;           /* by how much record times are ahead of the wall clock that is followed */
};

/*
 * The time to give out at `wall_ns`, which has the lead in it. The time may lie before `last_ns`, the last one, which
 * the caller then gives out again.
 */
int64_t jdr_record_clock_follow(struct jdr_record_clock *clock, int64_t wall_ns, int64_t monotonic_ns, int64_t last_ns);

/* Record times are ahead of the wall clock by `lead_ns` from now on. `last_ns` is the last time given out. */
void jdr_record_clock_lead(struct jdr_record_clock *clock, int64_t lead_ns, int64_t last_ns);

#endif
