"""Episode: the life of one domain under the faults of one seed, and the judgement of it.

First safety, with faults all the time: machines lose power and processes die at any step, disks and the store fail,
links are cut, clocks are set, and another machine takes the domain over, with the old owner dead or alive. Then all
faults end, and what is promised has to come true by itself, within a limited time.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jetdr_core as jetdr
from jetdr_core.catalog import read_chain
from jetdr_core.catalog.links import segments
from jetdr_core.errors import ChainBroken, GenerationMismatch, JetdrError, LogDamaged
from jetdr_core.options import DomainOptions
from jetdr_core.store import MemoryStore
from tests.sim.kernel import KERNEL
from tests.sim.machine import DISK_SECTORS, Machine, Wrong
from tests.sim.truth import Truth

__all__ = ["Episode"]

HEALED_S = 120.0
"""In so much virtual time everything is well after the last fault has ended."""

ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark that was reported as stored, and what the disks may hold at it."""

    name: str
    lsn: int
    epoch: int
    truths: dict[str, Truth]


@dataclass(frozen=True, slots=True)
class StoreCopy:
    """The store at some time, and how many marks and claims there were then."""

    objects: dict[str, bytes]
    marks: int
    claims: int


class Episode:
    """``story`` tells what happened, a line an event."""

    def __init__(self, seed: int) -> None:
        self.story: list[str] = []
        self._chance = chance = random.Random(seed)
        KERNEL.begin(seed)
        KERNEL.switch_rate = chance.choice([0.0, 0.0, 0.02, 0.1])
        self._store = MemoryStore(f"sim-{seed}-{len(_stores)}")
        _stores.append(self._store)
        self._options = DomainOptions(
            segment_bytes=chance.choice([4096, 16384, 1 << 20]),
            segment_age_s=chance.choice([0.02, 0.1, 0.5]),
            upload_workers=1,
            puts_max=chance.choice([1, 2, 4]),
            verify_frames=False,
            heartbeat_s=chance.choice([0.3, 2.0]),
            store_check_s=chance.choice([0.5, 3.0]),
            stall_limit_s=chance.choice([0.1, 1.0]),
            close_limit_s=chance.choice([0.0, 1.0, 5.0]),
            ring_bytes=1 << 18,
            ring_slots=chance.choice([16, 64]),
        )
        self._marks: list[Mark] = []
        self._claims: list[tuple[int, int]] = []  # (epoch, LSN) that were reported as stored
        self._superseded: list[Machine] = []
        self._log_copies: list[bytes] = []
        self._was_set_back = False
        self._store_copies: list[StoreCopy] = []
        self._keeps_maps = chance.random() < 0.6
        self._machines: list[Machine] = []
        self._owner = self._machine()

    def say(self, text: str) -> None:
        self.story.append(f"{KERNEL.now_ns / 1e9:10.6f} {text}")

    def _machine(self) -> Machine:
        name = "ABCDEFGH"[len(self._machines)]
        self._machines.append(
            Machine(name, self._store, self._options, self._chance, self.say, keeps_maps=self._keeps_maps)
        )
        return self._machines[-1]

    # -- the whole of it ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        for number in range(self._chance.choice([1, 2])):
            data = (
                self._chance.randbytes(DISK_SECTORS * 512) if self._chance.random() < 0.3 else bytes(DISK_SECTORS * 512)
            )
            self._owner.add_disk(f"disk{number}", data)
        await self._owner.open("create")
        for _ in range(self._chance.choice([1, 2, 3])):
            await self._round()
        await self._heal()
        await self._judge()

    async def give_up(self) -> None:
        """Let every thread end, after something went wrong."""
        KERNEL.on_step = _nothing
        for machine in self._machines:
            if machine.domain is not None:
                machine.die("is given up")
                with suppress(Exception):
                    await machine.bury(power_loss=False)

    def remove(self) -> None:
        """Remove what the episode has on the real file system."""
        for machine in self._machines:
            machine.remove()

    # -- faults ------------------------------------------------------------------------------------------------------

    async def _round(self) -> None:
        """One life of the owner with faults, and how it ends."""
        owner, chance = self._owner, self._chance
        if owner.domain is None:
            self._change_what_lies_still(owner)
            if not await self._opened(owner, attempts=1):
                return
        self._set_faults(owner)
        owner.work(chance.choice([1, 2, 3]))
        operating = asyncio.ensure_future(self._operate(owner))
        end = chance.choice(["power", "power", "kill", "close", "take over", "take over"])
        deadline = KERNEL.now_ns + int(chance.choice([0.3, 1.0, 3.0]) * chance.random() * 1e9)
        if end in {"power", "kill"}:
            self._die_at(owner, KERNEL.steps + int(chance.random() ** 2 * 3000), deadline)
        while KERNEL.now_ns < deadline and owner.is_alive:
            await asyncio.sleep(0.02)
        if end == "take over":
            await self._take_over(owner)
        KERNEL.on_step = _nothing
        operating.cancel()
        await asyncio.gather(operating, return_exceptions=True)
        if end in {"power", "kill"}:
            if owner.is_alive:
                owner.die("dies in the end")
            await owner.bury(power_loss=end == "power")
        elif end == "close" and owner.domain is not None:
            await owner.close(upload=chance.random() < 0.5)

    def _change_what_lies_still(self, owner: Machine) -> None:
        """While its owner is down, bits flip, or the log or the store is set back to an older copy."""
        dice = self._chance.random()
        if dice < 0.2:
            owner.rot()
        elif dice < 0.4 and self._log_copies:
            self._was_set_back = True
            owner.replace_log(self._chance.choice(self._log_copies))
            owner.say("the log is set back to an older copy")
        elif dice < 0.6 and self._store_copies and not self._superseded:
            self._was_set_back = True
            copy = self._chance.choice(self._store_copies)
            self._store._container.objects = dict(copy.objects)
            del self._marks[copy.marks :], self._claims[copy.claims :]
            owner.begin_numbers_anew()
            owner.say(f"the store is set back to an older copy, with {copy.marks} marks")

    def _copy(self, owner: Machine) -> None:
        """Somebody makes a copy of the owner's log, or of the store."""
        if self._chance.random() < 0.5:
            self._log_copies.append(owner.log.image())
        elif self._marks:  # before the first one the store may not know the disks, which is another story
            self._store_copies.append(
                StoreCopy(dict(self._store._container.objects), len(self._marks), len(self._claims))
            )

    def _set_faults(self, owner: Machine) -> None:
        chance = self._chance
        owner.link.failure_rate = chance.choice([0.0, 0.1, 0.4])
        owner.link.latency_s = chance.choice([0.001, 0.02, 0.2])
        owner.log.error_rate = chance.choice([0.0] * 9 + [0.01])
        owner.log.slow_s = chance.choice([0.0] * 8 + [0.3, 3.0])
        for disk in owner.disks.values():
            disk.error_rate = chance.choice([0.0] * 4 + [0.02])
            disk.slow_s = chance.choice([0.0] * 8 + [0.3])
        self.say(f"{owner.name}: faults: store {owner.link.failure_rate}, log {owner.log.error_rate}")

    def _die_at(self, owner: Machine, step: int, deadline: int) -> None:
        """Let the machine die at that step of the kernel, or at the deadline if the steps take longer."""

        def look() -> None:
            if owner.is_alive and (KERNEL.steps >= step or KERNEL.now_ns >= deadline):
                owner.die(f"dies at step {KERNEL.steps}")

        KERNEL.on_step = look

    async def _operate(self, machine: Machine) -> None:
        """Take marks, cut the link for a while, set the clock, pause the upload."""
        chance = self._chance
        while machine.is_alive:
            await asyncio.sleep(chance.random() * 0.3)
            dice = chance.random()
            if not machine.is_alive or machine.domain is None:
                return
            if dice < 0.5:
                await self._mark(machine, chance.random() * 2)
                if machine is self._owner:
                    self._copy(machine)
            elif dice < 0.65:
                machine.link.is_cut = not machine.link.is_cut
                machine.say(f"link is cut: {machine.link.is_cut}")
            elif dice < 0.75:
                step_ns = int((chance.random() - 0.5) * chance.choice([1e9, 1e12, 1e16]))
                machine.clock.set(max(1, machine.clock.time_ns + step_ns))
                machine.say(f"clock is set by {step_ns / 1e9:.1f} s")
            elif dice < 0.85:
                machine.domain.pause()
                await asyncio.sleep(chance.random() * 0.3)
                if machine.is_alive and machine.domain is not None:
                    machine.domain.resume()

    async def _mark(self, machine: Machine, limit_s: float) -> bool:
        """Take a mark, and note it if it is reported as stored."""
        assert machine.domain is not None
        name, truths, epoch = (
            f"mark {len(self._marks)} at {KERNEL.now_ns} of {machine.name}",
            dict(machine.truths),
            machine.epoch,
        )
        try:
            point = machine.domain.mark(name)
            await asyncio.wait_for(machine.domain.uploaded(point.lsn), limit_s)
        except (JetdrError, TimeoutError, OSError) as error:
            machine.say(f"no mark: {type(error).__name__}")
            return False
        if machine.is_alive:
            machine.say(f"LSN {point.lsn} is stored")
            self._claims.append((epoch, point.lsn))
            self._marks.append(Mark(name, point.lsn, epoch, truths))
        return machine.is_alive

    # -- owners ------------------------------------------------------------------------------------------------------

    async def _opened(self, machine: Machine, *, attempts: int, how: str = "open", **more: Any) -> bool:
        for _ in range(attempts):
            with suppress(JetdrError, OSError, TimeoutError):
                await machine.open(how, **more)
                return True
        return False

    async def _take_over(self, old: Machine) -> None:
        """Another machine takes the domain over. The old owner may be cut off, and does not know."""
        new, chance = self._machine(), self._chance
        if chance.random() < 0.4:
            old.link.is_cut = True
        source = chance.choice(["zeros", "copy", "store"])
        for name, disk in old.disks.items():
            new.add_disk(name, disk.image() if source == "copy" else bytes(DISK_SECTORS * 512))
        if source == "store":
            with suppress(JetdrError, OSError):
                for name, image in (await self._recovered("latest")).items():
                    new.add_disk(name, image)
        new.link.failure_rate = chance.choice([0.0, 0.2])
        if await self._opened(new, attempts=3, how="take_over"):
            self._superseded.append(old)
            self._owner = new
            self._log_copies.clear()
            if chance.random() < 0.5:
                new.work(1)
                await asyncio.sleep(chance.random() * 0.5)
            new.rest()

    # -- healing -----------------------------------------------------------------------------------------------------

    async def _heal(self) -> None:
        """All faults end. Old owners learn that they are fenced, and the present one becomes well."""
        self.say("all faults end")
        for machine in (self._owner, *self._superseded):
            self._end_faults(machine)
        for machine in self._superseded:
            await self._fence(machine)
        await self._become_well(self._owner)

    def _end_faults(self, machine: Machine) -> None:
        machine.link.failure_rate, machine.link.is_cut, machine.link.latency_s = 0.0, False, 0.01
        for disk in (machine.log, *machine.disks.values()):
            disk.error_rate = disk.slow_s = 0.0
        if machine.domain is not None and machine.is_alive:
            machine.domain.resume()

    async def _fence(self, old: Machine) -> None:
        if old.domain is not None:
            await self._learn(old)
            await old.close(upload=False)
        if await self._opened(old, attempts=1):
            raise Wrong(f"{old.name} opens a domain that {self._owner.name} has taken over")

    async def _learn(self, old: Machine) -> None:
        """A fenced owner learns it at its next upload, and without one from its store watch."""
        if self._chance.random() < 0.5:
            old.work(1)
        limit = KERNEL.now_ns + int(HEALED_S * 1e9)
        while old.domain is not None and old.domain.failure is None:
            if KERNEL.now_ns > limit:
                raise Wrong(f"{old.name} has not learnt within {HEALED_S} s that it is fenced")
            await asyncio.sleep(0.1)
        old.rest()
        assert old.domain is not None
        old.say(f"has failed: {type(old.domain.failure).__name__}: {old.domain.failure}")

    async def _become_well(self, owner: Machine) -> None:
        for _ in range(ATTEMPTS_MAX):
            try:
                if owner.domain is None:
                    await self._open_as_told(owner)
                await owner.wait_quiet(HEALED_S)
                owner.rest()
                if await self._mark(owner, HEALED_S):
                    return
            except (JetdrError, OSError, TimeoutError) as error:
                owner.say(f"not well yet: {type(error).__name__}: {error}")
            if owner.domain is not None:
                await owner.close(upload=False)
        raise Wrong(f"{owner.name} is not well after {ATTEMPTS_MAX} openings without a fault")

    async def _open_as_told(self, owner: Machine) -> None:
        """Open the domain. If that is refused because of what was set back, do what the error says."""
        try:
            await owner.open("open")
        except (ChainBroken, GenerationMismatch, LogDamaged) as error:
            if not self._was_set_back:
                raise
            owner.say(f"a new log, because of {type(error).__name__}")
            owner.replace_log(bytes(owner.log.size_bytes))
            await owner.open("take_over")

    # -- judgement ---------------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        owner, newest = self._owner, self._marks[-1]
        for name, image in (await self._recovered(newest.name)).items():
            if image != owner.disks[name].image():
                raise Wrong(f"disk {name} differs from its replica: {owner.truths[name].wrong_at(newest.lsn, image)}")
        for mark in [newest, *self._chance.sample(self._marks[:-1], min(2, len(self._marks) - 1))]:
            await self._judge_mark(mark)
        await self._judge_claims()
        report = await jetdr.verify(self._store)
        if not report.is_sound:
            raise Wrong(f"the store is not sound: {report}")
        await owner.close()

    async def _judge_mark(self, mark: Mark) -> None:
        for name, image in (await self._recovered(mark.name)).items():
            if wrong := mark.truths[name].wrong_at(mark.lsn, image):
                raise Wrong(f"{mark.name} (LSN {mark.lsn}, epoch {mark.epoch}), disk {name}: {wrong}")

    async def _judge_claims(self) -> None:
        """What was reported as stored is in the one history, and of the owner that had reported it."""
        chain = await read_chain(self._store)
        if chain.chain_break is not None:
            raise Wrong(f"the chain is broken: {chain.chain_break}")
        for epoch, lsn in self._claims:
            if not _has(chain, epoch, lsn):
                raise Wrong(f"LSN {lsn} of epoch {epoch} was reported as stored, and is not in the history")

    async def _recovered(self, at: str) -> dict[str, bytes]:
        async with _folder() as folder:
            report = await jetdr.rehydrate(self._store, at=at, target=folder, format="raw")
            return {disk.name: Path(disk.path).read_bytes() for disk in report.disks}  # noqa: ASYNC240


_stores: list[MemoryStore] = []


def _nothing() -> None:
    pass


def _has(chain: Any, epoch: int, lsn: int) -> bool:
    """Whether the chain has that LSN in a segment of that epoch."""
    return any(row["epoch"] == epoch and row["first_lsn"] <= lsn <= row["last_lsn"] for row in segments(chain.links))


@asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="jetdr-sim-", dir="/dev/shm"))
    try:
        yield folder / "out"
    finally:
        shutil.rmtree(folder)
