"""A model of the whole path: whatever is written, marked, closed or cut off by power loss, every point is what it was.

The model is a list of writes. A crash is a rule like any other: the log loses, keeps or tears what was not flushed, the
ring is lost, the primaries keep what they hold; the domain is then opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import jetdr_core as jetdr
from jetdr_core._core import ManualClock
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import JetdrError, NoSuchPoint
from tests.domain.fixture import fresh_store, image, recovered
from tests.faults.device import CrashDevice

T = TypeVar("T")
K = TypeVar("K")

DISK_BYTES = 64 << 10
NAMES = ("db01", "web01")
SECTORS = DISK_BYTES // 512
OPTIONS = jetdr.DomainOptions(
    segment_age_s=3600, ring_bytes=1 << 18, ring_slots=256, heartbeat_s=3600, upload_workers=1
)

State = dict[str, bytes]


class DomainModel(RuleBasedStateMachine):
    """``points`` holds the state of all disks after each LSN that may be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = fresh_store()
        self.log = CrashDevice(6 << 20)
        self.clock = ManualClock(1_700_000_000_000_000_000)
        self.primaries = {name: MemoryDevice(DISK_BYTES) for name in NAMES}
        self.points: dict[int, State] = {}
        self.times: dict[int, int] = {}
        self.marks: dict[str, int] = {}
        self.lsn_flushed = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asyncio.wait_for(work, 60))

    @initialize()
    def create(self) -> None:
        self.domain = jetdr.ProtectedDomain.create(
            "model", log=self.log, log_bytes=4 << 20, store=self.store, options=OPTIONS, clock=self.clock
        )
        self.run(self.domain.__aenter__())
        for name, primary in self.primaries.items():
            self.run(self.domain.protect(name, primary))
        self.note(self.domain.status().lsn_reserved)

    def note(self, lsn: int) -> None:
        """The present moment is the point after ``lsn``."""
        self.points[lsn] = {name: image(primary) for name, primary in self.primaries.items()}
        self.times[lsn] = self.clock.time_ns

    @rule(
        name=st.sampled_from(NAMES),
        sector=st.integers(0, SECTORS - 1),
        count=st.integers(1, 40),
        fill=st.integers(0, 255),
    )
    def write(self, name: str, sector: int, count: int, fill: int) -> None:
        count = min(count, SECTORS - sector)
        data = bytes((fill + n // 512) % 256 for n in range(count * 512)) if fill else bytes(count * 512)
        self.clock.advance(1000)
        self.note(self.domain.disk(name).write(sector * 512, data))

    @rule(name=st.sampled_from(NAMES), sector=st.integers(0, SECTORS - 1), count=st.integers(1, SECTORS))
    def zero(self, name: str, sector: int, count: int) -> None:
        self.clock.advance(1000)
        self.note(self.domain.disk(name).zero(sector * 512, min(count, SECTORS - sector) * 512))

    @rule()
    def flush(self) -> None:
        self.lsn_flushed = self.domain.disk(NAMES[0]).flush()

    @rule()
    def mark(self) -> None:
        name = f"mark {len(self.marks)}"
        self.clock.advance(1000)
        point = self.domain.mark(name)
        self.marks[name] = point.lsn
        self.note(point.lsn)

    @rule()
    def upload(self) -> None:
        lsn = self.domain.status().lsn_reserved
        self.run(self.domain.uploaded(lsn))
        self.lsn_flushed = max(self.lsn_flushed, lsn)

    @rule()
    def close_and_open(self) -> None:
        self.run(self.domain.close())
        self.clock.advance(1000)
        lsn = self.open_again()
        assert lsn == max(self.points), "a clean close loses nothing and owes nothing"

    @rule(seed=st.integers(0, 1 << 16))
    def lose_power(self, seed: int) -> None:
        after = self.log.crash(seed)
        with contextlib.suppress(JetdrError, OSError):
            self.run(self.domain.close(upload=False))
        self.log = after
        self.clock.advance(1000)
        lsn = self.open_again()
        assert lsn >= self.lsn_flushed, "what was flushed is there"
        self.forget_behind(lsn)
        self.run(self.domain.wait_consistent())
        self.note(self.domain.status().lsn_reserved)

    def open_again(self) -> int:
        """Open the domain; returns the last LSN that the log or the store still had."""
        self.domain = jetdr.ProtectedDomain.open(
            "model", log=self.log, store=self.store, disks=self.primaries, options=OPTIONS, clock=self.clock
        )
        self.run(self.domain.__aenter__())
        return self.domain.status().lsn_recovered

    @staticmethod
    def pick(nth: int, choice: dict[K, Any]) -> K:
        """One of ``choice``, which may differ from run to run: what survives a crash depends on the writer's thread."""
        return sorted(choice)[nth % len(choice)]  # type: ignore[type-var]

    def forget_behind(self, lsn: int) -> None:
        self.points = {at: state for at, state in self.points.items() if at <= lsn}
        self.marks = {name: at for name, at in self.marks.items() if at <= lsn}

    @rule(nth=st.integers(0, 1 << 16))
    def recover(self, nth: int) -> None:
        self.upload()
        lsn = self.pick(nth, self.points)
        assert self.run(recovered(self.store, lsn)) == self.points[lsn]

    @rule()
    def recover_latest(self) -> None:
        self.upload()
        assert self.run(recovered(self.store)) == {name: image(primary) for name, primary in self.primaries.items()}

    @rule(nth=st.integers(0, 1 << 16))
    def recover_at_a_time(self, nth: int) -> None:
        self.upload()
        time_ns = self.times[self.pick(nth, self.points)]
        lsn = max(lsn for lsn in self.points if self.times[lsn] <= time_ns)
        at = datetime.fromtimestamp(time_ns // 10**9, UTC) + timedelta(microseconds=time_ns % 10**9 // 1000)
        assert self.run(recovered(self.store, at)) == self.points[lsn]

    @rule(nth=st.integers(0, 1 << 16))
    def recover_mark(self, nth: int) -> None:
        self.upload()
        if self.marks:
            name = self.pick(nth, self.marks)
            assert self.run(recovered(self.store, name)) == self.points[self.marks[name]]

    @invariant()
    def consistent(self) -> None:
        if hasattr(self, "domain"):
            assert self.domain.consistent

    def teardown(self) -> None:
        if hasattr(self, "domain"):
            with contextlib.suppress(NoSuchPoint):
                self.run(self.domain.close())
        self.runner.close()


DomainModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestDomainModel = DomainModel.TestCase
