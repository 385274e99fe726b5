"""Each of log, store, disk, state folder and runtime folder is as the domain left it, or an older copy: all of them.

One table says what happens. In no combination is a flushed write on a primary overwritten, and none ends consistent
with a replica that differs from the primary.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.domain.hosting.generation_file import GenerationFile
from jetdr_core.errors import ChainBroken, GenerationMismatch
from jetdr_core.replication_log import describe_volume
from tests.domain.fixture import QUICK, recovered
from tests.domain.hosted import DISK_BYTES, Drva, Machine, machine, until

OLD, NEW = "old", "new"
PARTS = ("log", "store", "disk", "state", "runtime")
EVERY = [dict(zip(PARTS, ages, strict=True)) for ages in itertools.product((OLD, NEW), repeat=len(PARTS))]


def names_of(ages: dict[str, str]) -> str:
    return "-".join(part for part, age in ages.items() if age == OLD) or "nothing"


# -- write-through, embedded, after an orderly stop: state and runtime folder play no part -----------------------------


@dataclass
class Embedded:
    """Copies of a domain as it was at two orderly stops. Its disk is a link to one of two files, never a copy."""

    folder: Path

    def domain(self, way: str = "open", options: jetdr.DomainOptions = QUICK) -> jetdr.ProtectedDomain:
        face = getattr(jetdr.ProtectedDomain, way)
        more = {"log_bytes": 4 << 20} if way == "create" else {}
        url = (self.folder / "store").as_uri()
        domain: jetdr.ProtectedDomain = face("d", log=self.folder / "log", store=url, options=options, **more)
        return domain

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    async def write(self, way: str, text: bytes, age: str) -> None:
        options = QUICK if way == "create" else replace(QUICK, segment_age_s=60)  # nothing is uploaded before the pause
        async with self.domain(way, options) as domain:
            if way == "create":
                await domain.protect("a", self.disk)
                await domain.uploaded(domain.mark("first").lsn)
            domain.pause()  # what follows is in the log alone, so that the store is not ahead in LSNs
            domain.disk("a").write(0, text * 4096)
            domain.disk("a").flush()
        shutil.copy(self.folder / "log", self.folder / f"log.{age}")
        shutil.copytree(self.folder / "store", self.folder / f"store.{age}")

    def use(self, ages: dict[str, str]) -> None:
        shutil.copy(self.folder / f"log.{ages['log']}", self.folder / "log")
        shutil.rmtree(self.folder / "store")
        shutil.copytree(self.folder / f"store.{ages['store']}", self.folder / "store")
        self.disk.unlink()
        self.disk.symlink_to(self.folder / f"disk.{ages['disk']}")


@pytest.fixture
def embedded(tmp_path: Path) -> Embedded:
    made = Embedded(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "disk.new").write_bytes(bytes(64 << 10))
    made.disk.symlink_to(tmp_path / "disk.new")
    asyncio.run(made.write("create", b"A", OLD))
    shutil.copy(tmp_path / "disk.new", tmp_path / "disk.old")
    asyncio.run(made.write("open", b"B", NEW))
    return made


THROUGH = {  # the parts that are old: whether a gap opens
    "nothing": False,
    "log": True,
    "store": True,
    "disk": True,
    "log-store": True,
    "log-disk": True,
    "store-disk": True,
    "log-store-disk": True,  # a copied disk is another file
}


@pytest.mark.parametrize("ages", [ages for ages in EVERY if ages["state"] == ages["runtime"] == NEW], ids=names_of)
def test_in_write_through_what_may_differ_is_resynced(embedded: Embedded, ages: dict[str, str]) -> None:
    embedded.use(ages)
    before = embedded.disk.read_bytes()

    async def scenario() -> None:
        async with embedded.domain() as domain:
            gaps = len(domain._alive.control_log.history.gaps)
            assert bool(gaps) == THROUGH[names_of(ages)]
            await asyncio.wait_for(domain.wait_consistent(), 20)
            await domain.uploaded(domain.mark("after").lsn)
        replica = await recovered((embedded.folder / "store").as_uri(), "after")
        assert replica["a"] == before == embedded.disk.read_bytes()

    asyncio.run(scenario())


# -- hosted, in both modes ----------------------------------------------------------------------------

WHERE: dict[str, Callable[[Machine], Path]] = {
    "log": lambda made: made.folder / "log",
    "store": lambda made: made.folder / "store",
    "disk": lambda made: made.primary(),
    "state": lambda made: made.folder / "state",
    "runtime": lambda made: made.folder / "run",
}


def copy(source: Path, target: Path) -> None:
    """Copy with times and extended attributes, as a snapshot does."""
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.sock", "host.log"))
    else:
        shutil.copy2(source, target)


def keep(made: Machine, age: str) -> None:
    for part, where in WHERE.items():
        copy(where(made), made.folder / f"{part}.{age}")


class Stop(enum.Enum):
    """How the domain ended both times: (write-back, in order)."""

    THROUGH_LOST_POWER = (False, False)
    BACK_LOST_POWER = (True, False)
    BACK_IN_ORDER = (True, True)


def run_and_stop(made: Machine, how: str, text: bytes, age: str, *, in_order: bool) -> None:
    with Drva(made, how) as drva:
        drva.ask("wait")
        if not made.write_back:
            drva.ask("equal")  # uploads, so that the store is ahead of an older log
        drva.ask("pause")
        with made.client() as guest:
            guest.write(0, text * 4096)
            guest.flush()
        drva.ask("applied")  # it is on the primary as well, where nothing may overwrite it
        if in_order:
            drva.close(stop_host=True)
        else:
            drva.kill()
            made.kill_host()
    keep(made, age)


@contextmanager
def stopped_twice(stop: Stop) -> Iterator[Machine]:
    if shutil.which("nbdkit") is None:
        pytest.skip("nbdkit is not installed")
    write_back, in_order = stop.value
    with machine(write_back=write_back) as made:
        (made.folder / "state").mkdir(mode=0o700)  # in write-through nobody makes one
        run_and_stop(made, "create", b"A", OLD, in_order=in_order)
        run_and_stop(made, "open", b"B", NEW, in_order=in_order)
        yield made


def goes_on(stop: Stop, ages: dict[str, str]) -> bool:
    """The table. The runtime folder decides nothing: its ring is believed only beside the log that it continues.

    In write-through the disks are the truth, so a combination goes on with a gap, unless the store is ahead of the log.
    """
    if stop is Stop.THROUGH_LOST_POWER:
        return (ages["log"], ages["store"]) != (OLD, NEW)
    if stop is Stop.BACK_LOST_POWER:
        return len({ages[part] for part in ("log", "store", "disk", "state")}) == 1
    log_is_older = ages["log"] == OLD and NEW in {ages["store"], ages["disk"], ages["state"]}
    store_is_older = ages["log"] == NEW and ages["store"] == OLD
    return not log_is_older and not store_is_older


@pytest.fixture(scope="module", params=Stop, ids=lambda stop: stop.name.lower())
def stopped(request: pytest.FixtureRequest) -> Iterator[tuple[Stop, Machine]]:
    with stopped_twice(request.param) as made:
        yield request.param, made


@pytest.mark.parametrize("ages", EVERY, ids=names_of)
def test_no_older_copy_is_taken_for_the_truth(stopped: tuple[Stop, Machine], ages: dict[str, str]) -> None:
    stop, made = stopped
    for part, age in ages.items():
        copy(made.folder / f"{part}.{age}", WHERE[part](made))
    before = made.primary().read_bytes()

    async def scenario() -> bool:
        try:
            async with made.open() as domain:
                await asyncio.wait_for(domain.wait_consistent(), 20)
                await domain.uploaded(domain.mark("after").lsn)
                await domain.close(stop_host=True)
        except (GenerationMismatch, ChainBroken):
            return False
        assert (await recovered(made.store, "after"))["db01"] == made.primary().read_bytes()
        return True

    assert asyncio.run(scenario()) == goes_on(stop, ages)
    assert made.primary().read_bytes() == before
    assert len(before) == DISK_BYTES


@pytest.fixture(scope="module")
def lost_power() -> Iterator[Machine]:
    with stopped_twice(Stop.BACK_LOST_POWER) as made:
        yield made


@pytest.mark.parametrize("choice", [jetdr.OnMismatch.COPY, jetdr.OnMismatch.REPLAY], ids=lambda choice: choice.value)
def test_in_write_back_somebody_chooses_which_is_right(lost_power: Machine, choice: jetdr.OnMismatch) -> None:
    made = lost_power
    for part in PARTS:
        copy(made.folder / f"{part}.{OLD if part == 'log' else NEW}", WHERE[part](made))

    async def scenario() -> None:
        async with made.open(on_mismatch=choice) as domain:
            await asyncio.wait_for(domain.wait_consistent(), 20)
            await domain.uploaded(domain.mark("chosen").lsn)
            await domain.close(stop_host=True)
        held = made.primary().read_bytes()
        assert held[:4096] == (b"B" if choice is jetdr.OnMismatch.COPY else b"A") * 4096
        assert (await recovered(made.store, "chosen"))["db01"] == held
        async with made.open() as domain:  # from here on all belong together
            assert domain.consistent
            await domain.close(stop_host=True)

    asyncio.run(scenario())


# -- within one generation: a copy that was made since the last opening ------------------------------------------------


def noted_lsn(made: Machine) -> int:
    record = GenerationFile(made.folder / "state/vm").read()
    assert record is not None
    return record.lsn


@pytest.mark.parametrize("part", ["log", "state"])
def test_a_copy_made_while_the_domain_ran_is_noticed(peer: Callable[[str], str], part: str) -> None:
    """With the log so old it would be replayed over what guests have flushed since, with the state folder perhaps."""
    peer("nbdkit")
    with machine(write_back=True) as made:
        with Drva(made, "create") as drva:
            drva.ask("equal")
            if part == "log":
                drva.ask("pause")
            write_flushed(made, b"A")
            drva.ask("applied")
            copy(WHERE[part](made), made.folder / "older")
            before = noted_lsn(made) + 1 if part == "state" else seen(made.folder / "older", "lsn_last")
            write_flushed(made, b"B")
            drva.ask("applied")
            if part == "state":
                drva.ask("equal")  # the store has it all, so the log's tail moves
            reached = "lsn_first" if part == "state" else "lsn_last"
            until(lambda: seen(made.folder / "log", reached) > before and noted_lsn(made) > before)
            drva.kill()
        made.kill_host()
        copy(made.folder / "older", WHERE[part](made))
        shutil.rmtree(made.folder / "run")
        (made.folder / "run").mkdir(mode=0o700)
        held = made.primary().read_bytes()
        for choice in (jetdr.OnMismatch.REFUSE, jetdr.OnMismatch.COPY):
            asyncio.run(opened_by(made, choice))
            assert made.primary().read_bytes() == held
            assert held[:4096] == b"B" * 4096


def write_flushed(made: Machine, text: bytes) -> None:
    with made.client() as guest:
        for _ in range(3):
            guest.write(0, text * 4096)
            guest.flush()


def seen(log: Path, what: str) -> int:
    """The first or last LSN that a log holds."""
    (section,) = describe_volume(log).sections
    lsn: int = getattr(section, what)
    return lsn


async def opened_by(made: Machine, choice: jetdr.OnMismatch) -> None:
    if choice is jetdr.OnMismatch.REFUSE:
        with pytest.raises(GenerationMismatch, match=r"older copy|on its own word: the state folder"):
            async with made.open():
                pass
        return
    async with made.open(on_mismatch=choice) as domain:
        await asyncio.wait_for(domain.wait_consistent(), 20)
        await domain.uploaded(domain.mark("chosen").lsn)
        await domain.close(stop_host=True)
    assert (await recovered(made.store, "chosen"))["db01"] == made.primary().read_bytes()
