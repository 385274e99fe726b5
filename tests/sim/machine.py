"""Machine: what owns a domain for a while. It has a log, disks, guests, a clock, and a way to the store.

A life of a machine begins with an opening, and ends with a close, the death of its process, or a power loss. After a
life that did not end with a close the disks are judged by what their guests were told.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jetdr_core as jetdr
from jetdr_core._core import ManualClock
from jetdr_core.errors import InvalidRequest, JetdrError, PrimaryFailed, StallTimeout
from jetdr_core.options import DomainOptions
from jetdr_core.store import MemoryStore
from tests.sim.disk import SimDisk
from tests.sim.kernel import EPOCH_NS, KERNEL
from tests.sim.link import Link
from tests.sim.truth import Truth

__all__ = ["DOMAIN", "Machine", "Wrong"]

DOMAIN = "payroll"
DISK_SECTORS = 384
"""Three regions of a dirty map."""

HOT_SECTORS = 40
LOG_BYTES = 2 << 20
SECTION_BYTES = 1 << 20
VOLUME_AREA_BYTES = 1 << 20
"""The first section begins here."""

Story = Callable[[str], None]


class Wrong(Exception):
    """A promise does not hold."""


class Machine:
    """``options`` are those of its domain. ``say`` tells the story.

    ``keeps_maps``: dirty maps have sidecars. These are files, of which a power loss loses nothing.
    """

    def __init__(
        self,
        name: str,
        store: MemoryStore,
        options: DomainOptions,
        chance: random.Random,
        say: Story,
        *,
        keeps_maps: bool,
    ) -> None:
        self.name = name
        self.options = options
        self.domain: jetdr.ProtectedDomain | None = None
        self.clock = ManualClock(EPOCH_NS + KERNEL.now_ns)
        self.log = SimDisk(bytes(LOG_BYTES), chance)
        self.link = Link(store, chance)
        self.disks: dict[str, SimDisk] = {}
        self.truths: dict[str, Truth] = {}
        self.epoch = 0
        self.is_alive = False
        self._maps = _folder() if keeps_maps else None
        self._maps_found: dict[str, bytes] = {}
        self._store = store
        self._chance = chance
        self._say = say
        self._guests: list[threading.Thread] = []
        self._resting = False

    def say(self, text: str) -> None:
        self._say(f"{self.name}: {text}")

    def add_disk(self, name: str, image: bytes) -> None:
        self.disks[name] = SimDisk(image, self._chance)
        self.truths[name] = Truth(image, numbers=(ord(self.name[0]) * 100 + len(self.truths)) * 10**9)

    # -- life --------------------------------------------------------------------------------------------------------

    async def open(self, how: str, **more: Any) -> None:
        """Open the domain. Raises what that raises."""
        options = replace(self.options, map_folder=str(self._maps or ""))
        settings: dict[str, Any] = {"log": self.log, "store": self.link, "options": options, "clock": self.clock}
        if how != "create":
            settings["disks"] = more.pop("disks", dict(self.disks))
        if how != "open":
            settings["log_bytes"] = SECTION_BYTES
        domain = getattr(jetdr.ProtectedDomain, how)(DOMAIN, **settings, **more)
        self.is_alive, self.domain = True, domain
        try:
            await domain.__aenter__()
            if how == "create":
                for name, disk in self.disks.items():
                    await domain.protect(name, disk, wait=False)
        except BaseException as error:
            self.say(f"{how}: {type(error).__name__}: {error}")
            await self._end(domain)
            raise
        self.epoch = domain.status().epoch
        self.say(f"{how}: epoch {self.epoch}, LSN {domain.status().lsn_recovered}, {domain.status().why_inconsistent}")

    def rot(self) -> None:
        """Flip a bit in one copy of a superblock of the log, or in a dirty map. What is left has to make up for it."""
        maps = [] if self._maps is None else sorted(path for path in self._maps.iterdir() if path.stat().st_size)
        if maps and self._chance.random() < 0.5:
            path = self._chance.choice(maps)
            held, place = bytearray(path.read_bytes()), self._chance.randrange(path.stat().st_size)
            held[place] ^= 1 << self._chance.randrange(8)
            path.write_bytes(held)
            self.say(f"a bit of {path.name} at {place} has flipped")
            return
        start, distance = self._chance.choice([(0, 256 << 10), (VOLUME_AREA_BYTES, 16 << 10)])
        copy, place = self._chance.randrange(4), self._chance.randrange(4096)
        self.log.flip_bit(start + copy * distance + place)
        self.say(f"a bit of superblock copy {copy} at {start} has flipped")

    def replace_log(self, image: bytes) -> None:
        """Have another log, as it was at some time, or empty."""
        self.log = SimDisk(image, self._chance)
        self.begin_numbers_anew()

    def begin_numbers_anew(self) -> None:
        """LSNs that had been given out are given out again: log or store have lost them."""
        for name, truth in self.truths.items():
            self.truths[name] = truth.after(self.disks[name].image(), is_durable=False)

    async def close(self, *, upload: bool = True) -> None:
        """Close in order. The disks then hold exactly what was written."""
        assert self.domain is not None
        self.rest()
        try:
            await self.domain.close(upload=upload)
            self.say("closed")
        except (JetdrError, OSError) as error:
            self.say(f"closed: {type(error).__name__}: {error}")
            for name, truth in self.truths.items():  # the log may lack what the disks have
                truth.flush_failed()
                self.truths[name] = truth.after(self.disks[name].image(), is_durable=False)
        self.domain, self.is_alive = None, False

    def die(self, why: str) -> None:
        """The machine stops at this instant. May be called at any step; :meth:`bury` follows."""
        self._say(f"{self.name}: {why}")
        self.is_alive = False
        self.link.is_cut = True
        if self._maps is not None:
            self._maps_found = {path.name: path.read_bytes() for path in self._maps.iterdir()}
        for disk in (self.log, *self.disks.values()):
            disk.cut()

    async def bury(self, *, power_loss: bool) -> None:
        """Let what is left of the threads end. Afterwards the disks are there again, and are judged."""
        domain = self.domain
        after = SimDisk.after_power_loss if power_loss else SimDisk.after_kill
        self.log, self.disks = after(self.log), {name: after(disk) for name, disk in self.disks.items()}
        if domain is not None:
            await self._end(domain)
        link = Link(self._store, self._chance)
        link.plan = self.link.plan
        self.restore(link)
        for name, disk in self.disks.items():
            if wrong := self.truths[name].wrong_after_crash(disk.image()):
                raise Wrong(f"{self.name}, disk {name}, {'power loss' if power_loss else 'kill'}: {wrong}")
            self.truths[name] = self.truths[name].after(disk.image(), is_durable=power_loss)

    async def _end(self, domain: jetdr.ProtectedDomain) -> None:
        self.rest()
        with suppress(JetdrError, OSError):
            await domain.close(upload=False)
        self.domain, self.is_alive = None, False

    def restore(self, link: Link) -> None:
        """Have a link again, and the sidecars as they were when the machine died, whatever its threads did to them."""
        self.link = link
        if self._maps is not None:
            self.remove()
            self._maps = _folder()
            for name, found in self._maps_found.items():
                (self._maps / name).write_bytes(found)

    def remove(self) -> None:
        """Remove what the machine has on the real file system."""
        if self._maps is not None:
            shutil.rmtree(self._maps)

    # -- guests ------------------------------------------------------------------------------------------------------

    def work(self, guests: int) -> None:
        """Have guests write until :meth:`rest`, or until the machine dies."""
        self._resting = False
        for number in range(guests):
            guest = threading.Thread(target=self._guest, args=(number,), name=f"guest-{self.name}{number}")
            self._guests.append(guest)
            guest.start()

    def rest(self) -> None:
        """Return when no guest has a call in flight."""
        self._resting = True
        for guest in self._guests:
            guest.join()
        self._guests.clear()

    def _guest(self, number: int) -> None:
        chance = random.Random(self._chance.random())
        while self.is_alive and not self._resting:
            KERNEL.sleep(chance.random() ** 3 * 0.05)
            name = chance.choice(sorted(self.disks))
            try:
                self._call(chance, name)
            except StallTimeout as error:
                self.say(f"guest {number}: {error}")
            except (JetdrError, OSError) as error:
                if self.is_alive:
                    self.say(f"guest {number} ends: {type(error).__name__}: {error}")
                return

    def _call(self, chance: random.Random, name: str) -> None:
        """One write, zero or flush."""
        dice = chance.random()
        if dice < 0.15:
            self.flush(name)
            return
        first = chance.randrange(DISK_SECTORS if chance.random() < 0.1 else HOT_SECTORS)  # most regions stay cold
        count = min(DISK_SECTORS - first, 1 + int(chance.random() ** 3 * 16))
        self.write(name, first, count, is_zero=dice < 0.25)

    def flush(self, name: str) -> None:
        """Flush, and note what is then known."""
        assert self.domain is not None
        disk, truth = self.domain.disk(name), self.truths[name]
        writes = truth.about_to_flush()
        try:
            disk.flush()
        except PrimaryFailed:
            truth.flush_failed()
            raise
        if self.is_alive:
            truth.flushed(writes)

    def write(self, name: str, first: int, count: int, *, is_zero: bool) -> None:
        """Write or zero, and note what is then known."""
        assert self.domain is not None
        disk, truth = self.domain.disk(name), self.truths[name]
        write = truth.begin(first, count, is_zero=is_zero)
        try:
            lsn = disk.zero(first * 512, count * 512) if is_zero else disk.write(first * 512, write.data())
        except (StallTimeout, InvalidRequest):
            truth.never_begun(write)
            raise
        if self.is_alive:
            truth.end(write, lsn)

    # -- the operator ------------------------------------------------------------------------------------------------

    async def wait_quiet(self, limit_s: float) -> None:
        """Wait until nothing is owed. A copy that failed is owed until the next opening."""
        assert self.domain is not None
        await asyncio.wait_for(self.domain.wait_consistent(), limit_s)


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="jetdr-sim-", dir="/dev/shm"))
