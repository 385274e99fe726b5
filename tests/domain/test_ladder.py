"""The overload ladder: every edge, by a clock that the test moves, and what it does to a guest over minutes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from jetdr_core.domain.ladder import CALM_S, Ladder, LadderStep, Reading, Rung
from jetdr_core.options import DomainOptions

MIB = 1 << 20
LOG_BYTES = 100 * MIB
OPTIONS = DomainOptions()


@dataclass
class World:
    """A log of 100 MiB, what arrives and what leaves. Everything is set by hand."""

    ladder: Ladder
    now_s: float = 0.0
    fill: float = 0.0
    shipped: int = 0
    logging: bool = True
    off_times: int = 0
    written_bytes: int = 0
    is_free: bool = True
    owes_resync: bool = False

    @classmethod
    def begin(cls, options: DomainOptions = OPTIONS) -> World:
        return cls(Ladder(options, 0.0))

    def look(self, elapsed_s: float = 0.1, *, fill: float | None = None) -> LadderStep:
        self.now_s += elapsed_s
        self.fill = self.fill if fill is None else fill
        return self.ladder.look(
            Reading(
                now_s=self.now_s,
                log_bytes=LOG_BYTES,
                head=self.shipped + int(self.fill * LOG_BYTES),
                tail=self.shipped,
                logging=self.logging,
                off_times=self.off_times,
                why_off="the log was full",
                written_bytes=self.written_bytes,
                is_free=self.is_free,
                owes_resync=self.owes_resync,
            )
        )

    def go_off(self) -> LadderStep:
        self.logging, self.off_times = False, self.off_times + 1
        return self.look()

    def drain(self, bytes_per_s: int, *, written_per_s: int = 0, until: float = 0.25) -> LadderStep:
        """Ship what the log holds, a second at a time, while guests write past it."""
        step = self.look()
        while self.fill > until:
            self.shipped += bytes_per_s
            self.written_bytes += written_per_s
            step = self.look(1.0, fill=max(until, self.fill - bytes_per_s / LOG_BYTES))
        return step

    def come_back(self) -> LadderStep:
        self.logging, self.owes_resync = True, True
        self.ladder.resumed(self.now_s)
        return self.look()


def test_the_way_down_and_up_again() -> None:
    world = World.begin()
    assert world.look(fill=0.05).rung is Rung.DIRECT
    assert world.look(fill=0.2) == LadderStep(Rung.SPILL, world.now_s, "the log is 20% full")
    for _ in range(3):
        world.shipped += MIB
        world.look(fill=0.2)
    throttled = world.look(fill=0.75)
    assert (throttled.rung, throttled.since_s) == (Rung.THROTTLED, world.now_s)
    assert throttled.limit_bytes_per_s is not None
    assert world.go_off() == LadderStep(Rung.BYPASS, world.now_s, "the log was full")
    assert world.drain(2 * MIB) == LadderStep(Rung.PROBE, world.now_s, "the log was full", may_return=True)
    back = world.come_back()
    assert (back.rung, back.limit_bytes_per_s) == (Rung.RESYNC, None)
    world.owes_resync = False
    assert world.look().rung is Rung.SPILL
    assert world.look(fill=0.01).rung is Rung.DIRECT


@pytest.mark.parametrize(("up", "down", "rung"), [(0.1, 0.06, Rung.SPILL), (0.7, 0.66, Rung.THROTTLED)])
def test_a_rung_is_left_later_than_it_was_entered(up: float, down: float, rung: Rung) -> None:
    world = World.begin()
    assert world.look(fill=up - 0.01).rung is not rung
    begun = world.look(fill=up)
    assert begun.rung is rung
    kept = world.look(fill=down)
    assert (kept.rung, kept.since_s) == (rung, begun.since_s)
    assert world.look(fill=down - 0.02).rung is not rung
    assert world.look(fill=down).rung is not rung


def test_the_state_says_since_when() -> None:
    world = World.begin()
    world.look(fill=0.2)
    since_s = world.now_s
    assert world.look(5.0).since_s == since_s


# -- backpressure ------------------------------------------------------------------------------------------------------


def test_without_backpressure_nothing_is_limited() -> None:
    world = World.begin(replace(OPTIONS, throttle_fill=1.0))
    assert world.look(fill=0.99).limit_bytes_per_s is None


def test_the_fuller_the_log_the_less_may_be_logged() -> None:
    limits = []
    for fill in (0.72, 0.75, 0.8, 0.85, 0.9, 1.0):
        world = World.begin()
        for _ in range(10):
            world.shipped += 4 * MIB
            world.look(1.0, fill=0.5)
        limit = world.look(fill=fill).limit_bytes_per_s
        assert limit is not None
        limits.append(limit / MIB)
    assert limits == sorted(limits, reverse=True)
    assert limits[3] == pytest.approx(4, rel=0.2), "half way from the threshold to the end: what is shipped"
    assert limits[-1] == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("disks", [1, 4])
def test_what_arrives_approaches_what_is_shipped_and_disks_that_write_little_are_let_be(disks: int) -> None:
    """Some disks write all they can, and one 0.2 MiB/s. 8 MiB/s are shipped, in segments."""
    world, used, segment = World.begin(), 60.0 * MIB, 0.0
    calm = 0.2 * MIB
    limit: float | None = None
    for _ in range(3000):
        allowed = float("inf") if limit is None else limit
        used += (disks * min(100 * MIB, allowed) + min(calm, allowed)) * 0.1
        segment += 0.8 * MIB
        if segment >= 4 * MIB:
            used, segment = max(0.0, used - segment), 0.0
            world.shipped += 4 * MIB
        assert used < LOG_BYTES or world.now_s < 10, "the log does not fill up"
        used = min(used, LOG_BYTES)
        limit = world.look(fill=used / LOG_BYTES).limit_bytes_per_s
        if world.now_s > 60:
            assert limit is not None
            assert limit > calm
    assert 0.75 < used / LOG_BYTES < 0.95
    assert limit == pytest.approx((8 * MIB - calm) / disks, rel=0.5)


def test_a_store_that_is_away_leaves_a_little() -> None:
    world = World.begin()
    for _ in range(100):
        world.look(1.0, fill=0.8)
    step = world.ladder.step
    assert step.limit_bytes_per_s == 64 << 10


# -- the return --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["log", "free"])
def test_logging_stays_off_until_the_log_has_drained_and_all_works(what: str) -> None:
    world = World.begin()
    world.look(fill=0.9)
    world.go_off()
    world.is_free = what == "log"
    assert world.look(10, fill=0.3 if what == "log" else 0.0).rung is Rung.BYPASS
    world.is_free = True
    assert world.look(fill=0.25).may_return


def test_logging_stays_off_while_guests_write_more_than_was_shipped() -> None:
    world = World.begin()
    world.look(fill=0.95)
    world.go_off()
    step = world.drain(2 * MIB, written_per_s=20 * MIB)
    assert step == LadderStep(Rung.PROBE, world.now_s, "guests write 20.0 MiB/s, and only 2.0 MiB/s were shipped")
    for _ in range(5):
        assert not world.look(1.0).may_return
        world.written_bytes += 20 * MIB
    for _ in range(20):
        world.written_bytes += 1 * MIB
        world.look(1.0)
    assert world.ladder.step.may_return, "guests write 1 MiB/s now"


def test_what_was_measured_long_ago_forbids_nothing() -> None:
    """The store may be quicker by now, and an empty log does not tell."""
    world = World.begin()
    world.look(fill=0.95)
    world.go_off()
    world.drain(2 * MIB, written_per_s=20 * MIB)
    for _ in range(int(OPTIONS.return_delay_max_s) + 1):
        world.written_bytes += 20 * MIB
        world.look(1.0)
    assert world.ladder.step.may_return


def test_a_return_that_fails_waits_twice_as_long_each_time() -> None:
    world, waits = World.begin(), []
    for _ in range(9):
        world.go_off()
        begun = world.now_s
        while not world.look(0.01).may_return:
            pass
        waits.append(world.now_s - begun)
        world.come_back()
        world.look(5.0)
    assert waits[0] < 0.1
    assert waits[1:] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.05)


@pytest.mark.parametrize("ended", ["resync", "calm"])
def test_a_return_that_succeeded_forgets_the_failures(ended: str) -> None:
    world = World.begin()
    for _ in range(4):
        world.go_off()
        while not world.look(0.01).may_return:
            pass
        world.come_back()
    if ended == "resync":
        world.owes_resync = False
        world.look()
    else:
        world.look(CALM_S)
    world.go_off()
    assert world.look(0.06).may_return


def test_a_log_that_drains_at_once_says_nothing_of_the_store() -> None:
    world = World.begin()
    world.look(fill=0.95)
    world.go_off()
    assert world.drain(20 * MIB, written_per_s=100 * MIB).may_return


def test_nobody_is_delayed_before_it_is_known_what_is_shipped() -> None:
    """An idle domain ships nothing, and that says nothing of the store."""
    world = World.begin()
    for _ in range(100):
        world.look(1.0, fill=0.01)
    assert world.look(fill=0.9).limit_bytes_per_s is None
    for _ in range(2):
        world.shipped += 4 * MIB
        world.look(1.0, fill=0.9)
    assert (world.ladder.step.limit_bytes_per_s or 0) > MIB
