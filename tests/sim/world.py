"""World: one machine, its disks and the store, which do what a script says and are judged in the end.

A script is a list of steps. Each step may fail with an error that the product raises, and nothing else. Afterwards
every fault ends. Then the domain has to become well by being opened, with a replica that equals its disk.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import jetdr_core as jetdr
from jetdr_core.errors import InvalidRequest, JetdrError
from jetdr_core.options import DomainOptions
from jetdr_core.store import MemoryStore, ObjectStore
from tests.sim.disk import SimDisk
from tests.sim.fault_plan import FaultPlan
from tests.sim.kernel import KERNEL
from tests.sim.machine import Machine, Wrong
from tests.sim.truth import Truth

__all__ = ["STALL_LIMIT_S", "Step", "World"]

STALL_LIMIT_S = 1.0
STEP_LIMIT_S = 300.0
"""A step that takes longer hangs. A store is tried again for 120 s."""

HEALED_S = 120.0
OPENINGS_MAX = 3

_numbers = itertools.count()

Step = Callable[["World"], Awaitable[None]]

OPTIONS = DomainOptions(
    segment_bytes=1 << 20,
    segment_age_s=60.0,
    upload_workers=1,
    puts_max=1,
    verify_frames=False,
    heartbeat_s=60.0,
    store_check_s=30.0,
    stall_limit_s=STALL_LIMIT_S,
    close_limit_s=1.0,
    ring_bytes=1 << 18,
    ring_slots=16,
)


class World:
    """``story`` tells what happened. ``marks`` are those that were reported as stored, with what the disks had."""

    def __init__(self, *, sectors: int, keeps_maps: bool, plan: FaultPlan | None = None, filled: bool = False) -> None:
        KERNEL.begin(0)
        self.story: list[str] = []
        self.plan = plan or FaultPlan()
        self.store = MemoryStore(f"world-{next(_numbers)}")
        self.marks: list[tuple[str, int, dict[str, Truth]]] = []
        self.lsn_flushed = 0
        self.lacks_log = False
        chance = random.Random(0)
        self.machine = Machine("A", self.store, OPTIONS, chance, self.say, keeps_maps=keeps_maps)
        self.machine.log.name, self.machine.log.plan, self.machine.link.plan = "log", self.plan, self.plan
        self.machine.link.latency_s = 0.001
        self.machine.add_disk("db", chance.randbytes(sectors * 512) if filled else bytes(sectors * 512))
        self.machine.disks["db"].name, self.machine.disks["db"].plan = "primary", self.plan

    def say(self, text: str) -> None:
        self.story.append(f"{KERNEL.now_ns / 1e9:10.6f} {text}")

    # -- a script ----------------------------------------------------------------------------------------------------

    async def play(self, steps: list[Step]) -> None:
        """Take the steps. One that fails is told, and the next one is taken."""
        for step in steps:
            begun, name = KERNEL.now_ns, getattr(step, "__name__", "step")
            try:
                await asyncio.wait_for(step(self), STEP_LIMIT_S * 2)
            except (JetdrError, OSError, TimeoutError) as error:
                self.say(f"{name}: {type(error).__name__}: {error}")
                if not str(error) and not isinstance(error, TimeoutError):
                    raise Wrong(f"{name} failed with an empty {type(error).__name__}") from error
            if KERNEL.now_ns - begun > STEP_LIMIT_S * 1e9:
                raise Wrong(f"{name} took {(KERNEL.now_ns - begun) / 1e9:.0f} s")

    async def opened(self) -> None:
        """Have the domain open, with its disk. Raises what opening raises."""
        if self.machine.domain is None:
            await self._open()
        domain = self.machine.domain
        assert domain is not None
        if "db" not in domain.disks:
            await domain.protect("db", self.machine.disks["db"], wait=False)

    async def _open(self) -> None:
        if not self.store_has_domain():
            await self.machine.open("create")
            return
        how = "take_over" if self.lacks_log else "open"
        try:
            await self.machine.open(how)
        except InvalidRequest:  # the domain does not protect the disk yet, and said so
            await self.machine.open(how, disks={})
        self.lacks_log = False
        assert self.machine.domain is not None
        recovered = self.machine.domain.status().lsn_recovered
        if recovered < self.lsn_flushed:
            raise Wrong(f"LSN {self.lsn_flushed} was flushed, and the log has nothing after LSN {recovered}")

    def store_has_domain(self) -> bool:
        return bool(self.store._container.objects)

    def write(self, first: int, count: int, *, is_zero: bool = False) -> None:
        if self.machine.domain is not None:
            self._in_time("write", lambda: self.machine.write("db", first, count, is_zero=is_zero))

    def flush(self) -> None:
        domain = self.machine.domain
        if domain is not None:
            self._in_time("flush", lambda: self.machine.flush("db"))
            self.lsn_flushed = domain.status().lsn_durable

    def _in_time(self, what: str, call: Callable[[], None]) -> None:
        begun = KERNEL.now_ns
        try:
            call()
        finally:
            if KERNEL.now_ns - begun > (STALL_LIMIT_S + 1) * 1e9:
                raise Wrong(f"a {what} took {(KERNEL.now_ns - begun) / 1e9:.1f} s")

    async def mark(self, *, limit_s: float = 5.0) -> None:
        """Take a mark, and note it once it is reported as stored."""
        domain, truths = self.machine.domain, dict(self.machine.truths)
        if domain is None:
            return
        point = domain.mark(f"mark {len(self.marks)} at {KERNEL.now_ns}")
        await asyncio.wait_for(domain.uploaded(point.lsn), limit_s)
        self.marks.append((point.name or "", point.lsn, truths))

    async def crash(self, *, power_loss: bool) -> None:
        if self.machine.domain is not None:
            self.machine.die("power is lost" if power_loss else "the process is killed")
            await self.machine.bury(power_loss=power_loss)

    async def lose_log(self) -> None:
        """Have the machine's process end, and its log be replaced by an empty one."""
        await self.crash(power_loss=False)
        old, self.machine.log = self.machine.log, SimDisk(bytes(self.machine.log.size_bytes), random.Random(0))
        self.machine.log.name, self.machine.log.plan = old.name, old.plan
        self.lacks_log, self.lsn_flushed = True, 0

    async def close(self, *, upload: bool) -> None:
        if self.machine.domain is not None:
            await self.machine.close(upload=upload)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def heal(self) -> None:
        """End every fault. The domain has to become well, with a mark in the store."""
        self.say("all faults end")
        self.plan.end()
        self.machine.link.is_cut = False
        for _ in range(OPENINGS_MAX):
            with suppress(JetdrError, OSError, TimeoutError):
                await self.opened()
                await self.machine.wait_quiet(HEALED_S)
                await self.mark(limit_s=HEALED_S)
                return
            await self.close(upload=False)
        raise Wrong(f"it is not well after {OPENINGS_MAX} openings without a fault")

    async def judge(self, *, marks: int = 2) -> None:
        """Compare the newest marks with what guests had, and the newest of all with the primary."""
        machine = self.machine
        images = [(await recovered(self.store, name))["db"] for name, _, _ in self.marks[-marks:]]
        for (name, lsn, truths), image in zip(self.marks[-marks:], images, strict=True):
            if wrong := truths["db"].wrong_at(lsn, image):
                raise Wrong(f"{name} (LSN {lsn}): {wrong}")
        if images[-1] != machine.disks["db"].image():
            raise Wrong("the primary differs from its replica")
        report = await jetdr.verify(self.store)
        if not report.is_sound:
            raise Wrong(f"the store is not sound: {report}")
        await self.close(upload=True)

    async def give_up(self) -> None:
        """Let every thread end, after something went wrong."""
        if self.machine.domain is not None:
            self.machine.die("is given up")
            with suppress(Exception):
                await self.machine.bury(power_loss=False)


async def recovered(store: ObjectStore, at: str) -> dict[str, bytes]:
    """The disks at that point, by name."""
    folder = Path(tempfile.mkdtemp(prefix="jetdr-sim-", dir="/dev/shm"))
    try:
        report = await jetdr.rehydrate(store, at=at, target=folder / "out", format="raw")
        return {disk.name: Path(disk.path).read_bytes() for disk in report.disks}  # noqa: ASYNC240
    finally:
        shutil.rmtree(folder)
