"""A disk that an operator gives up: after every crash the next start ends without it, and nobody protects it anew."""

from __future__ import annotations

import asyncio
import re
import shlex
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jetdr_core.drva.added_disks import AddedDisk, AddedDisks
from jetdr_core.drva.config import DiskConfig, DomainConfig, load_config
from jetdr_core.drva.configured_disks import ConfiguredDisks
from jetdr_core.drva.configured_domain import AnyDomain
from jetdr_core.drva.daemon import Drva
from jetdr_core.drva.doctor.disk_checks import disk_checks
from jetdr_core.drva.doctor.finding import Verdict
from jetdr_core.drva.given_up_disks import GivenUpDisk, GivenUpDisks
from jetdr_core.errors import InvalidRequest, LoggingOff, StallTimeout
from tests.cli.jetdr_command import jetdr
from tests.drva.running_drva import DISK_BYTES, InProcess, embedded, place, running
from tests.drva.walks import is_whole

DB01 = DiskConfig(name="db01", path="/disks/db01")
NEW = DiskConfig(name="new", path="/disks/new", size_bytes=4096)


class Crash(BaseException):
    """The DRVA ends here."""


class Steps:
    """Counts durable steps. The DRVA ends before step ``last + 1``, and does nothing from then on."""

    def __init__(self, last: int = 1 << 30) -> None:
        self.done = 0
        self._last = last

    def take(self) -> None:
        if self.done == self._last:
            raise Crash
        self.done += 1


class History:
    """Stands in for an open domain, with what its history would have after a crash."""

    def __init__(self, *disks: DiskConfig) -> None:
        self.disks: dict[str, Any] = {disk.name: SimpleNamespace(path=disk.path) for disk in disks}
        self.steps = Steps()
        self.refuses: Exception | None = None
        self.made: list[tuple[str, int | None]] = []

    async def protect(self, name: str, path: str, *, size_bytes: int | None = None, wait: bool = True) -> Any:
        if name in self.disks:
            raise InvalidRequest(f"disk {name!r} is protected already")
        self.steps.take()
        self.made.append((name, size_bytes))
        return self.disks.setdefault(name, SimpleNamespace(path=path))

    async def unprotect(self, name: str) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.steps.take()
        del self.disks[name]

    async def make_durable(self) -> int:
        self.steps.take()
        return 0

    def disk(self, name: str) -> Any:
        if name not in self.disks:
            raise InvalidRequest(f"domain 'vm' protects no disk {name!r}")
        return self.disks[name]

    @property
    def domain(self) -> AnyDomain:
        return cast(AnyDomain, self)


class Added(AddedDisks):
    def __init__(self, folder: Path, steps: Steps) -> None:
        super().__init__(folder, "vm")
        self._steps = steps

    def note(self, disk: AddedDisk) -> AddedDisk | None:
        self._steps.take()
        return super().note(disk)

    def forget(self, name: str) -> AddedDisk | None:
        self._steps.take()
        return super().forget(name)


class GivenUp(GivenUpDisks):
    def __init__(self, folder: Path, steps: Steps) -> None:
        super().__init__(folder, "vm")
        self._steps = steps

    def note(self, disk: GivenUpDisk) -> None:
        self._steps.take()
        super().note(disk)

    def forget(self, name: str) -> None:
        self._steps.take()
        super().forget(name)


def started(folder: Path, history: History, *configured: DiskConfig, last: int = 1 << 30) -> ConfiguredDisks:
    """Return the disks of a DRVA that was just started, and that ends after ``last`` durable steps."""
    history.steps = steps = Steps(last)
    return ConfiguredDisks(configured, Added(folder, steps), GivenUp(folder, steps))


def noted(folder: Path) -> set[str]:
    return set(GivenUpDisks(folder, "vm").known())


def added(folder: Path) -> set[str]:
    return {disk.name for disk in AddedDisks(folder, "vm").known()}


HOW = ["added", "configured", "both", "unnamed"]
"""How the disk ``new`` is named while it is protected."""


def configured(how: str) -> tuple[DiskConfig, ...]:
    return (DB01, NEW) if how in {"configured", "both"} else (DB01,)


def prepared(folder: Path, how: str) -> History:
    if how in {"added", "both"}:
        AddedDisks(folder, "vm").note(AddedDisk(name="new", path="/disks/new", size_bytes=4096))
    return History(DB01, NEW)


@pytest.mark.parametrize(
    ("how", "is_open"), [(how, is_open) for how in HOW for is_open in (True, False) if is_open or how != "unnamed"]
)
def test_after_every_crash_the_next_start_ends_without_the_disk(tmp_path: Path, how: str, is_open: bool) -> None:
    """The first DRVA ends after each durable step of the command, and the next one after each step of its start."""
    for first in range(1, 5):
        for second in range(4):
            folder = tmp_path / f"{first}-{second}"
            history = prepared(folder, how)
            disks = started(folder, history, *configured(how), last=first)
            with suppress(Crash):
                asyncio.run(disks.give_up(history.domain, "new") if is_open else disks.give_up_closed("new"))
            with suppress(Crash):
                asyncio.run(started(folder, history, *configured(how), last=second).begin(history.domain))
            if "new" in history.disks and how != "unnamed":
                assert "new" in added(folder) | {disk.name for disk in configured(how)}, "it would have no place"
            disks = started(folder, history, *configured(how))
            asyncio.run(disks.begin(history.domain))
            assert set(history.disks) == {"db01"}
            assert added(folder) == set()
            assert noted(folder) == ({"new"} if NEW in configured(how) else set())
            assert (history.made, disks.unprotected) == ([], ())


def test_what_was_refused_has_changed_nothing(tmp_path: Path) -> None:
    history = prepared(tmp_path, "added")
    history.refuses = LoggingOff("the log is full", hint="wait")
    disks = started(tmp_path, history, DB01)
    with pytest.raises(LoggingOff):
        asyncio.run(disks.give_up(history.domain, "new"))
    assert (added(tmp_path), noted(tmp_path), disks.given_up) == ({"new"}, set(), ())


def test_a_domain_that_is_closed_meanwhile_gives_the_disk_up_at_its_next_opening(tmp_path: Path) -> None:
    class Closing(History):
        async def unprotect(self, name: str) -> None:
            del self.disks
            raise InvalidRequest("domain 'vm' is being closed")

        def __getattr__(self, name: str) -> Any:
            raise InvalidRequest("domain 'vm' is not open")

    prepared(tmp_path, "added")
    history = Closing(DB01, NEW)
    disks = started(tmp_path, history, DB01)
    given_up = asyncio.run(disks.give_up(history.domain, "new"))
    assert disks.is_leaving("new")
    assert [(told.since_ns, told.is_done) for told in disks.given_up] == [(given_up.since_ns, False)]
    reopened = History(DB01, NEW)
    asyncio.run(disks.begin(reopened.domain))
    assert (set(reopened.disks), added(tmp_path), noted(tmp_path)) == ({"db01"}, set(), set())


def test_what_was_accepted_and_finds_no_room_in_the_log_is_told_and_tried_again(tmp_path: Path) -> None:
    history = prepared(tmp_path, "added")
    disks = started(tmp_path, history, DB01)
    given_up = asyncio.run(disks.give_up_closed("new"))
    history.refuses = StallTimeout("the log is full", hint="wait")
    asyncio.run(disks.begin(history.domain))
    (told,) = disks.given_up
    assert (told.name, told.since_ns, told.is_done, told.why) == (
        "new",
        given_up.since_ns,
        False,
        "not done yet: the log is full; wait",
    )
    assert set(history.disks) == {"db01", "new"}
    history.refuses = None
    asyncio.run(disks.settle(history.domain))
    assert (set(history.disks), disks.given_up, noted(tmp_path)) == ({"db01"}, (), set())


def test_a_file_that_a_person_removed_ends_what_was_left_to_do(tmp_path: Path) -> None:
    async def scenario() -> None:
        history = History(DB01)
        history.refuses = StallTimeout("the log is full")
        domain, given_up = cast(AnyDomain, history), GivenUpDisks(tmp_path, "payroll")
        given_up.note(GivenUpDisk(name="db01", since_ns=1))
        disks = ConfiguredDisks([], AddedDisks(tmp_path, "payroll"), given_up)
        await disks.begin(domain)
        assert disks.is_leaving("db01")
        given_up.path.unlink()
        given_up.known()
        await disks.settle(domain)
        assert not disks.is_leaving("db01")
        assert "db01" in history.disks

    asyncio.run(scenario())


def test_a_disk_that_was_given_up_and_is_configured_comes_back_only_with_protect(tmp_path: Path) -> None:
    """With ``size_bytes`` a restart would make an empty disk in place of the lost one."""
    history = prepared(tmp_path, "configured")
    disks = started(tmp_path, history, DB01, NEW)
    asyncio.run(disks.give_up(history.domain, "new"))
    disks = started(tmp_path, history, DB01, NEW)
    asyncio.run(disks.begin(history.domain))
    disks.reconfigure([DB01, replace(NEW, path="/disks/elsewhere")])
    asyncio.run(disks.settle(history.domain))
    assert (history.made, disks.unprotected) == ([], ())
    (told,) = disks.given_up
    assert told.is_done
    assert "remove its [[domain.disk]], or 'jetdr protect vm new /disks/elsewhere' protects it again" in told.why
    disks.reconfigure([DB01, NEW])
    asyncio.run(disks.add(history.domain, replace(NEW, size_bytes=None)))
    assert (history.made, disks.given_up, noted(tmp_path)) == ([("new", None)], (), set())
    asyncio.run(started(tmp_path, history, DB01, NEW).begin(history.domain))
    assert set(history.disks) == {"db01", "new"}


def test_a_disk_that_the_configuration_lacks_by_now_is_forgotten(tmp_path: Path) -> None:
    history = prepared(tmp_path, "configured")
    disks = started(tmp_path, history, DB01, NEW)
    asyncio.run(disks.give_up(history.domain, "new"))
    disks.reconfigure([DB01])
    assert disks.are_due
    asyncio.run(disks.settle(history.domain))
    assert (disks.given_up, noted(tmp_path)) == ((), set())
    disks.reconfigure([DB01, NEW])
    asyncio.run(disks.settle(history.domain))
    assert set(history.disks) == {"db01", "new"}


@pytest.mark.parametrize("how", ["configured", "unnamed"])
def test_after_every_crash_a_disk_that_is_wanted_back_is_protected_or_given_up_still(tmp_path: Path, how: str) -> None:
    for last in range(5):
        folder = tmp_path / str(last)
        history = prepared(folder, how)
        disks = started(folder, history, *configured(how))
        asyncio.run(disks.give_up(history.domain, "new"))
        GivenUpDisks(folder, "vm").note(GivenUpDisk(name="new", since_ns=1))  # its end was cut off
        disks = started(folder, history, *configured(how), last=last)
        with suppress(Crash):
            asyncio.run(disks.add(history.domain, replace(NEW, size_bytes=None)))
        was_protected = "new" in history.disks
        disks = started(folder, history, *configured(how))
        asyncio.run(disks.begin(history.domain))
        assert ("new" in history.disks) is was_protected
        assert 4096 not in dict(history.made).values(), "an empty disk was made"
        assert was_protected or noted(folder) == ({"new"} if how == "configured" else set())
        assert not was_protected or noted(folder) == set()


def test_commands_that_contradict_each_other_get_clear_answers(tmp_path: Path) -> None:
    history = prepared(tmp_path, "both")
    disks = started(tmp_path, history, DB01, NEW)
    first = asyncio.run(disks.give_up_closed("new"))
    assert asyncio.run(disks.give_up_closed("new")) == first
    again = f"'new' is being given up since {first.since}; once that is done .*, 'jetdr protect vm new PATH'"
    with pytest.raises(InvalidRequest, match=again):
        asyncio.run(disks.move_closed("new", "/disks/moved"))
    with pytest.raises(InvalidRequest, match=again):
        asyncio.run(disks.move(history.domain, "new", "/disks/moved"))
    with pytest.raises(InvalidRequest, match=again):
        asyncio.run(disks.add(history.domain, NEW))
    asyncio.run(disks.begin(history.domain))
    assert asyncio.run(disks.give_up(history.domain, "new")) == first
    with pytest.raises(InvalidRequest, match=f"'new' was given up at {first.since}; 'jetdr protect vm new PATH'"):
        asyncio.run(disks.move(history.domain, "new", "/disks/moved"))
    with pytest.raises(InvalidRequest, match="protects no disk 'other'"):
        asyncio.run(disks.give_up(history.domain, "other"))


def test_a_closed_domain_s_disk_that_nobody_names_can_be_given_up_or_moved_if_the_domain_has_it(tmp_path: Path) -> None:
    """In write-back the domain may wait for that very disk."""
    added_disks, given_up = AddedDisks(tmp_path, "vm"), GivenUpDisks(tmp_path, "vm")
    disks = ConfiguredDisks([DB01], added_disks, given_up, known=lambda: {"db01", "lost", "moved"})
    asyncio.run(disks.give_up_closed("lost"))
    asyncio.run(disks.move_closed("moved", "/disks/moved"))
    assert (noted(tmp_path), added(tmp_path)) == ({"lost"}, {"moved"})
    with pytest.raises(InvalidRequest, match="nobody has named disk 'other' here; the disks are: db01, lost, moved"):
        asyncio.run(disks.give_up_closed("other"))


def test_a_configured_disk_that_could_not_be_protected_can_be_given_up(tmp_path: Path) -> None:
    history = History(DB01)
    disks = started(tmp_path, history, DB01, NEW)
    asyncio.run(disks.give_up(history.domain, "new"))
    asyncio.run(disks.begin(history.domain))
    assert (disks.unprotected, history.made) == ((), [])


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"version": 2, "disks": []}', b'{"version": 1, "disks": [{"name": "new"}]}'],
)
def test_while_it_is_not_known_which_disks_were_given_up_no_disk_is_protected_anew(
    tmp_path: Path, content: bytes
) -> None:
    history = History(DB01)
    GivenUpDisks(tmp_path, "vm").note(GivenUpDisk(name="new", since_ns=1))
    path = GivenUpDisks(tmp_path, "vm").path
    path.write_bytes(content)
    disks = started(tmp_path, history, DB01, NEW)
    asyncio.run(disks.begin(history.domain))
    (text,) = disks.unprotected
    assert re.match(r"disk 'new': .*given-up-disks does not say which disks were given up: .*; remove it", text)
    path.unlink()
    asyncio.run(disks.settle(history.domain))
    assert set(history.disks) == {"db01", "new"}


def test_an_unprotect_that_is_accepted_while_the_domain_is_opened_holds_over_a_restart() -> None:
    held = threading.Event()

    async def slow(config: DomainConfig) -> AnyDomain:
        await asyncio.to_thread(held.wait)
        return await embedded(config)

    with place("payroll") as here:
        with running(here):
            here.ask("protect", domain="payroll", disk="more", path=str(here.path / "more"), size_bytes=DISK_BYTES)
        drva = InProcess(Drva(load_config(here.file), opener=slow))
        while not here.socket.exists():
            time.sleep(0.001)
        answer = here.ask("unprotect", domain="payroll", disk="more")
        assert (answer["open"], answer["configured"]) == (False, False)
        (told,) = here.status()["given_up"]
        assert (told["disk"], told["since"], told["done"]) == ("more", answer["since"], False)
        drva.stop()
        held.set()
        drva.join()
        with running(here):
            found = here.until(is_whole)
            assert [disk["name"] for disk in found["disks"]] == ["db01"]
            assert (found["given_up"], found["alarms"]) == ([], [])


def test_a_lost_disk_that_was_given_up_is_no_fault_and_is_not_made_anew() -> None:
    """The configuration still names it, with its size, so a restart could make an empty disk in its place."""
    with place("payroll") as here:
        here.file.write_text(
            f'{here.file.read_text()}\n[[domain.disk]]\nname = "db02"\npath = "{here.path}/db02"\nsize_bytes = 4096\n'
        )
        with running(here):
            here.until(is_whole)
            (here.path / "db02").unlink()
            said = jetdr("unprotect", "payroll", "db02", "--socket", here.socket)
            assert "the configuration still names disk 'db02': remove its [[domain.disk]] there" in said.err
        with running(here):
            found = here.until(is_whole)
            assert found["alarms"] == []
            told = jetdr("status", "--socket", here.socket).out
            assert re.search(r"\n  given up +disk db02 since 2.*: the configuration still names it", told)
            assert not (here.path / "db02").exists()
            (finding,) = [one for one in disk_checks(load_config(here.file)) if one.name == "disk payroll/db02"]
            assert finding.look().verdict is Verdict.DOUBTFUL
            remedy = f"'jetdr protect payroll db02 {here.path / 'db02'}'"
            assert remedy in finding.look().remedy
            (here.path / "db02").write_bytes(b"back".ljust(4096))
            jetdr(*shlex.split(remedy.strip("'"))[1:], "--socket", here.socket)
            here.until(lambda s: is_whole(s) and len(s["disks"]) == 2 and not s["given_up"])
        with running(here):
            here.until(lambda s: is_whole(s) and len(s["disks"]) == 2)
