"""The times of records: the wall clock's, as far as the monotonic clock supports it."""

from __future__ import annotations

import pytest

from jetdr_core._core import ManualClock, Ring
from jetdr_core.record import Kind

S = 10**9
NOW = 1_700_000_000 * S
YEAR = 365 * 86400 * S


def a_ring(clock: ManualClock, time_ns_last: int = 0) -> Ring:
    return Ring(payload_bytes=1 << 16, slots=64, lsn_next=1, clock=clock, time_ns_last=time_ns_last)


def stamp(ring: Ring) -> int:
    return ring.control(Kind.MARK, 0, b"{}", stall_limit_s=1)[1]


def stay(ring: Ring, clock: ManualClock, seconds: int) -> None:
    """Let time pass, with a look at the clock every second."""
    for _ in range(seconds):
        clock.advance(S)
        ring.look_at_clock()


@pytest.mark.parametrize("step_ns", [YEAR, 11 * S, 3600 * S, -YEAR, -11 * S, -3600 * S])
def test_a_step_that_the_monotonic_clock_does_not_support_is_not_followed(step_ns: int) -> None:
    clock = ManualClock(NOW)
    ring = a_ring(clock)
    assert stamp(ring) == NOW
    clock.set(NOW + step_ns)
    clock.advance(5 * S)
    assert stamp(ring) == NOW + 5 * S
    assert ring.look_at_clock().away_ns == step_ns
    clock.set(NOW + 7 * S)
    clock.advance(S)
    assert stamp(ring) == NOW + 8 * S, "the clock is back, with the two seconds it has lost meanwhile"
    seen = ring.look_at_clock()
    assert (seen.away_ns, seen.doubted_since_ns) == (0, 0)


def test_an_ordinary_correction_is_followed_at_once_and_hours_of_drift_too() -> None:
    clock = ManualClock(NOW)
    ring = a_ring(clock)
    stamp(ring)
    clock.set(NOW + 10 * S)
    assert stamp(ring) == NOW + 10 * S
    clock.advance(86400 * S)
    clock.set(clock.time_ns + 90 * S)  # a quartz that is wrong by 1 in 1000
    assert stamp(ring) == NOW + (10 + 86400 + 90) * S
    assert ring.look_at_clock().doubted_since_ns == 0


def test_a_clock_that_stays_ahead_is_followed_after_a_minute_and_the_instants_before_are_in_doubt() -> None:
    clock = ManualClock(NOW)
    ring = a_ring(clock)
    stamp(ring)
    clock.set(NOW + 3600 * S)
    stay(ring, clock, 59)
    assert stamp(ring) == NOW + 59 * S
    stay(ring, clock, 2)
    assert stamp(ring) == NOW + 3661 * S
    assert ring.look_at_clock().doubted_since_ns == NOW


def test_a_clock_that_wanders_does_not_count_as_staying() -> None:
    clock = ManualClock(NOW)
    ring = a_ring(clock)
    stamp(ring)
    for step in range(1, 10):
        clock.set(NOW + step * YEAR)
        stay(ring, clock, 30)
    assert stamp(ring) == NOW + 9 * 30 * S


def test_time_that_a_wrong_clock_gave_is_held_when_the_clock_stays_back_and_is_in_doubt() -> None:
    """The machine began with a clock a year ahead, and somebody sets it right."""
    before = NOW - 600 * S
    clock = ManualClock(NOW + YEAR)
    ring = a_ring(clock, time_ns_last=before)
    clock.advance(S)
    first = stamp(ring)
    clock.set(NOW)
    stay(ring, clock, 62)
    assert stamp(ring) >= first, "time never decreases along LSN"
    held = stamp(ring)
    clock.advance(600 * S)
    assert stamp(ring) == held, "the last time is held until the clock has passed it"
    seen = ring.look_at_clock()
    assert seen.doubted_since_ns == before + 1, "everything since the log's last record"
    assert seen.time_ns_last - seen.wall_ns > 300 * 86400 * S


def test_a_clock_that_falls_back_before_the_log_is_wrong_itself_so_the_past_stays_certain() -> None:
    clock = ManualClock(NOW)
    ring = a_ring(clock, time_ns_last=NOW - S)
    clock.advance(3600 * S)
    stamp(ring)
    clock.set(NOW - YEAR)
    stay(ring, clock, 62)
    held = stamp(ring)
    assert ring.look_at_clock().doubted_since_ns == held, "not a year of history"


def test_an_hour_that_the_clock_goes_through_twice_is_in_doubt_and_no_more() -> None:
    clock = ManualClock(NOW)
    ring = a_ring(clock, time_ns_last=NOW - S)
    stamp(ring)
    clock.advance(86400 * S)
    stamp(ring)
    clock.set(clock.time_ns - 3600 * S)
    stay(ring, clock, 62)
    seen = ring.look_at_clock()
    assert abs(seen.doubted_since_ns - (NOW + (86400 - 3600 + 61) * S)) <= 2 * S


def test_a_doubt_ends_when_it_is_settled_and_a_new_one_does_not_end_with_an_old_one() -> None:
    clock = ManualClock(NOW)
    ring = a_ring(clock)
    stamp(ring)
    clock.set(NOW + YEAR)
    stay(ring, clock, 62)
    since = ring.look_at_clock().doubted_since_ns
    ring.settle_doubt(since + 1)
    assert ring.look_at_clock().doubted_since_ns == since
    ring.settle_doubt(since)
    assert ring.look_at_clock().doubted_since_ns == 0


def test_with_a_lead_times_go_on_after_a_clock_was_set_back_and_keep_their_distances() -> None:
    clock = ManualClock(NOW + YEAR)
    ring = a_ring(clock, time_ns_last=NOW - S)
    stamp(ring)
    clock.set(NOW)
    stay(ring, clock, 62)
    seen = ring.look_at_clock()
    ring.set_lead(seen.time_ns_last - seen.wall_ns)
    led = ring.look_at_clock()
    assert led.lead_ns == seen.time_ns_last - seen.wall_ns > 300 * 86400 * S
    assert led.doubted_since_ns == seen.doubted_since_ns + led.lead_ns, "a time with the lead, as all"
    first = stamp(ring)
    assert first >= seen.time_ns_last
    clock.advance(600 * S)
    assert stamp(ring) == first + 600 * S, "they are told apart again"
    assert ring.look_at_clock().away_ns == 0
    clock.set(clock.time_ns + 3600 * S)
    clock.advance(S)
    assert ring.look_at_clock().away_ns == 3600 * S, "a step is noticed as ever"


def test_a_ring_that_begins_with_a_lead_has_it_in_its_first_time() -> None:
    clock = ManualClock(NOW)
    ring = a_ring(clock, time_ns_last=NOW + YEAR)
    ring.set_lead(YEAR)
    clock.advance(5 * S)
    assert stamp(ring) == NOW + YEAR + 5 * S
    seen = ring.look_at_clock()
    assert (seen.doubted_since_ns, seen.away_ns) == (0, 0)
