"""A log whose device takes nothing is in trouble since a moment; one that is full or idle is not."""

from __future__ import annotations

from jetdr_core.domain.log_watch import LOOKS_MAX, LogPace, LogWatch
from jetdr_core.domain.trouble import Trouble, Troubles
from jetdr_core.errors import JetdrError, LogFailed

GIVEN = LogPace(lsn_reserved=5, lsn_written=3, waiting_bytes=8192, room_bytes=64 << 20)


class Rig:
    def __init__(self) -> None:
        self.failure: JetdrError | None = None
        self.pace = GIVEN
        self.said = ""
        self.now_ns = 0
        self.watch = LogWatch(lambda: self.failure, lambda: self.pace, lambda: self.said, Troubles(lambda: self.now_ns))

    def look(self, times: int = 1) -> Trouble | None:
        for _ in range(times):
            self.now_ns += 1
            self.watch.look()
        return self.watch.trouble


def test_a_device_that_takes_nothing_for_some_looks_is_in_trouble_until_it_takes_something() -> None:
    rig = Rig()
    assert rig.look(LOOKS_MAX) is None
    rig.said = "the target does not answer"
    begun = rig.look()
    assert begun == Trouble("its device takes nothing after LSN 3: the target does not answer", rig.now_ns)
    rig.said = ""
    assert rig.look(9) == Trouble("its device takes nothing after LSN 3", begun.since_ns)
    rig.pace = GIVEN._replace(lsn_written=4)
    assert rig.look() is None


def test_a_log_that_is_idle_full_or_slow_is_in_no_trouble() -> None:
    for pace in (GIVEN._replace(lsn_written=5), GIVEN._replace(room_bytes=8192)):
        rig = Rig()
        rig.pace = pace
        assert rig.look(20) is None
    slow = Rig()
    for _ in range(10):
        slow.pace = slow.pace._replace(lsn_reserved=slow.pace.lsn_reserved + 1, lsn_written=slow.pace.lsn_written + 1)
        assert slow.look(LOOKS_MAX) is None


def test_a_log_that_has_failed_says_why_and_since_when() -> None:
    rig = Rig()
    rig.pace = GIVEN._replace(lsn_written=5)
    rig.failure = LogFailed("writing failed: Input/output error", hint="check the device")
    failed = rig.look()
    assert failed is not None
    assert "Input/output error" in failed.reason
    assert rig.look(5) == failed
    rig.failure = None
    assert rig.look() is None
