"""The parts of a session, each alone: the alarm log, the configured disks, the last status, the owed copies."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jetdr_core.domain import DomainStatus
from jetdr_core.drva.added_disks import AddedDisk, AddedDisks
from jetdr_core.drva.alarm_log import AlarmLog
from jetdr_core.drva.alarms import Alarm
from jetdr_core.drva.as_of import AsOf
from jetdr_core.drva.config import DiskConfig
from jetdr_core.drva.configured_disks import ConfiguredDisks
from jetdr_core.drva.configured_domain import AnyDomain
from jetdr_core.drva.given_up_disks import GivenUpDisks
from jetdr_core.drva.last_status import LastStatus
from jetdr_core.drva.owed_copies import OwedCopies
from jetdr_core.drva.session_state import Phase, State
from jetdr_core.errors import InvalidRequest, NotConsistent, PrimaryFailed, StallTimeout

DB01 = DiskConfig(name="db01", path="/disks/db01")
DB02 = DiskConfig(name="db02", path="/disks/db02")


class StandIn:
    """Stands in for an open domain. ``protect`` fails for the names in ``absent``; ``status`` waits for ``answers``."""

    def __init__(self, known: dict[str, str] | None = None, absent: tuple[str, ...] = ()) -> None:
        self.disks: dict[str, Any] = {name: SimpleNamespace(path=path) for name, path in (known or {}).items()}
        self.absent = set(absent)
        self.refuses = False
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0
        self.copied: asyncio.Future[None] | None = None

    async def protect(self, name: str, path: str, **_: object) -> Any:
        if name in self.absent:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.disks.setdefault(name, SimpleNamespace(path=path))

    async def unprotect(self, name: str) -> None:
        if self.refuses:
            raise StallTimeout("the log is full")
        del self.disks[name]

    async def make_durable(self) -> int:
        return 0

    def disk(self, name: str) -> Any:
        return self.disks[name]

    def status(self) -> object:
        self.asked += 1
        assert self.answers.wait(20)
        return SimpleNamespace(asked=self.asked)

    async def wait_consistent(self) -> None:
        assert self.copied is not None
        await self.copied

    @property
    def domain(self) -> AnyDomain:
        return cast(AnyDomain, self)


def status(*, consistent: bool, ready: bool = True) -> DomainStatus:
    return cast(DomainStatus, SimpleNamespace(consistent=consistent, disks=[SimpleNamespace(ready=ready)]))


def named(folder: Path, *configured: DiskConfig) -> ConfiguredDisks:
    """Return the disks that the configuration and the state folder name, as a start of the DRVA finds them."""
    return ConfiguredDisks(configured, AddedDisks(folder, "vm"), GivenUpDisks(folder, "vm"))


def known(last: LastStatus) -> AsOf[DomainStatus]:
    value = last.value()
    assert value is not None
    return value


# -- alarm log ---------------------------------------------------------------------------------------------------------


def test_an_alarm_is_logged_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    alarms = AlarmLog("payroll")
    alarms.note([Alarm("rpo", "70 s"), Alarm("paused", "by hand")])
    alarms.note([Alarm("rpo", "71 s")])
    alarms.note([Alarm("rpo", "72 s")])
    alarms.note([])
    assert [record.getMessage() for record in caplog.records] == [
        "domain payroll: alarm paused: by hand",
        "domain payroll: alarm rpo: 70 s",
        "domain payroll: alarm paused is over",
        "domain payroll: alarm rpo is over",
    ]
    assert {record.__dict__["domain"] for record in caplog.records} == {"payroll"}


# -- configured disks --------------------------------------------------------------------------------------------------


def test_a_disk_that_cannot_be_protected_stops_no_other_one_and_is_tried_again(tmp_path: Path) -> None:
    disks, here = named(tmp_path, DB01, DB02), StandIn(absent=("db01",))
    asyncio.run(disks.begin(here.domain))
    assert set(here.disks) == {"db02"}
    (text,) = disks.unprotected
    assert text.startswith("disk 'db01': ")
    assert not disks.are_due
    here.absent.clear()
    asyncio.run(disks.protect(here.domain))
    assert set(here.disks) == {"db01", "db02"}
    assert disks.unprotected == ()


def test_a_domain_that_is_opened_again_has_all_its_disks_tried_again(tmp_path: Path) -> None:
    disks = named(tmp_path, DB01)
    asyncio.run(disks.begin(StandIn().domain))
    assert disks.unprotected == ()
    asyncio.run(disks.begin(StandIn(absent=("db01",)).domain))
    assert len(disks.unprotected) == 1


NEW = AddedDisk(name="new", path="/disks/new", size_bytes=4096)


def test_a_disk_that_was_added_is_named_again_after_a_restart(tmp_path: Path) -> None:
    asyncio.run(named(tmp_path, DB01).add(StandIn().domain, NEW))
    disks, here = named(tmp_path, DB01), StandIn()
    asyncio.run(disks.begin(here.domain))
    assert {name: disk.path for name, disk in here.disks.items()} == {"db01": "/disks/db01", "new": "/disks/new"}


def test_an_added_disk_that_could_not_be_protected_is_not_kept(tmp_path: Path) -> None:
    added = AddedDisks(tmp_path, "vm")
    with pytest.raises(FileNotFoundError):
        asyncio.run(named(tmp_path).add(StandIn(absent=("new",)).domain, NEW))
    assert added.known() == ()


def test_a_disk_that_is_protected_already_keeps_the_place_it_was_added_with(tmp_path: Path) -> None:
    added, here = AddedDisks(tmp_path, "vm"), StandIn()
    disks = named(tmp_path)
    asyncio.run(disks.add(here.domain, NEW))
    asyncio.run(disks.add(here.domain, replace(NEW, path="/disks/another")))
    assert added.known() == (NEW,)


def test_a_disk_that_was_given_up_does_not_come_back(tmp_path: Path) -> None:
    added, here = AddedDisks(tmp_path, "vm"), StandIn()
    disks = named(tmp_path)
    asyncio.run(disks.add(here.domain, NEW))
    asyncio.run(disks.give_up(here.domain, "new"))
    assert added.known() == ()
    asyncio.run(disks.add(here.domain, NEW))
    here.refuses = True
    with pytest.raises(StallTimeout):
        asyncio.run(disks.give_up(here.domain, "new"))
    assert added.known() == (NEW,)  # for it is protected still


def test_a_configured_disk_is_added_nowhere_else(tmp_path: Path) -> None:
    disks, here = named(tmp_path, DB01), StandIn(absent=("db01",))
    with pytest.raises(InvalidRequest, match="disk 'db01' is configured at /disks/db01; correct the configuration"):
        asyncio.run(disks.add(here.domain, replace(DB01, path="/disks/another")))
    here.absent.clear()
    asyncio.run(disks.add(here.domain, DB01))
    assert AddedDisks(tmp_path, "vm").known() == ()


def test_where_configuration_and_added_disks_differ_the_configuration_is_right(tmp_path: Path) -> None:
    added = AddedDisks(tmp_path, "vm")
    added.note(AddedDisk(name="db01", path="/disks/before"))
    here = StandIn()
    asyncio.run(named(tmp_path, DB01).begin(here.domain))
    assert here.disks["db01"].path == "/disks/db01"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"version": 2, "disks": []}',
        b'{"version": 1, "disks": [{"name": "../x", "path": "/x", "size_bytes": null}]}',
        b'{"version": 1, "disks": [{"name": "x", "path": "x", "size_bytes": null}]}',
        b'{"version": 1, "disks": [{"name": "x", "path": "/x", "size_bytes": true}]}',
        b'{"version": 1, "disks": [{"name": "x"}]}',
        b'{"version": 1, "disks": [[]]}',
    ],
)
def test_a_file_that_this_engine_did_not_write_names_no_disk(content: bytes, tmp_path: Path) -> None:
    added, here = AddedDisks(tmp_path, "vm"), StandIn()
    added.note(NEW)
    added.path.write_bytes(content)
    asyncio.run(named(tmp_path, DB01).begin(here.domain))
    assert set(here.disks) == {"db01"}
    with pytest.raises(InvalidRequest, match=r"added-disks does not say which disks were added: .*; remove it"):
        added.note(NEW)


def test_added_disks_that_others_can_change_are_not_believed(tmp_path: Path) -> None:
    added = AddedDisks(tmp_path, "vm")
    added.note(NEW)
    (tmp_path / "vm").chmod(0o777)
    assert added.known() == ()


# -- last status -------------------------------------------------------------------------------------------------------


def test_callers_at_the_same_time_share_one_question() -> None:
    here, taken = StandIn(), []

    async def ask() -> None:
        last = LastStatus(lambda _, status: taken.append(status))
        last.follow(here.domain)
        await asyncio.gather(*(last.refresh() for _ in range(5)))
        assert known(last).value is taken[0]

    asyncio.run(ask())
    assert here.asked == len(taken) == 1


def test_a_domain_that_hangs_leaves_the_last_status_and_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetdr_core.drva.last_status.ANSWER_S", 0.01)
    here = StandIn()

    async def ask() -> None:
        last = LastStatus(lambda *_: None)
        last.follow(here.domain)
        while last.value() is None:
            await last.refresh()
        before = known(last)
        assert before.is_present
        here.answers.clear()
        monkeypatch.setattr("jetdr_core.drva.as_of.PRESENT_S", 0.02)
        await last.refresh()
        await last.refresh()
        await last.refresh()
        after = known(last)
        assert (after.value, after.at_ns, after.is_present) == (before.value, before.at_ns, False)
        assert after.age_s >= 0.02
        here.answers.set()

    asyncio.run(ask())


def test_an_answer_of_a_domain_that_was_closed_meanwhile_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetdr_core.drva.last_status.ANSWER_S", 0.01)
    old, new = StandIn(), StandIn()
    taken: list[AnyDomain] = []

    async def ask() -> None:
        last = LastStatus(lambda domain, _: taken.append(domain))
        last.follow(old.domain)
        old.answers.clear()
        await last.refresh()
        last.follow(new.domain)
        old.answers.set()
        while not taken:
            await last.refresh()

    asyncio.run(ask())
    assert set(map(id, taken)) == {id(new)}


def test_nothing_is_asked_while_no_domain_is_open() -> None:
    last = LastStatus(lambda *_: None)
    asyncio.run(last.refresh())
    assert last.value() is None


def test_the_status_of_a_domain_that_was_closed_is_no_present_one_however_young() -> None:
    async def ask() -> None:
        last = LastStatus(lambda *_: None)
        last.follow(StandIn().domain)
        await last.refresh()
        assert known(last).is_present
        last.follow(None)
        assert not known(last).is_present
        last.follow(StandIn().domain)
        assert not known(last).is_present, "it is of the domain before"
        await last.refresh()
        assert known(last).is_present

    asyncio.run(ask())


# -- owed copies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owed", "error", "raises"),
    [
        (status(consistent=False), PrimaryFailed("disk db01: cannot be read"), True),
        (status(consistent=True, ready=False), PrimaryFailed("disk db01: cannot be read"), True),
        (status(consistent=False), NotConsistent("closed meanwhile"), False),
        (status(consistent=False), None, False),
        (status(consistent=True), PrimaryFailed("nobody waits for a copy"), False),
    ],
)
def test_a_copy_that_failed_is_raised_once(owed: DomainStatus, error: Exception | None, raises: bool) -> None:
    async def watch() -> None:
        here, copies = StandIn(), OwedCopies()
        here.copied = asyncio.get_running_loop().create_future()
        copies.watch(here.domain, owed)
        copies.raise_failure()  # it is not done yet
        await asyncio.sleep(0)
        here.copied.set_result(None) if error is None else here.copied.set_exception(error)
        here.copied.exception()
        for _ in range(3):
            await asyncio.sleep(0)
        if raises:
            with pytest.raises(PrimaryFailed):
                copies.raise_failure()
        copies.raise_failure()
        await copies.end()

    asyncio.run(watch())


# -- phase ----------------------------------------------------------------------------------------------------------


def test_a_state_is_entered_once_and_a_failure_is_over_when_the_domain_opens() -> None:
    begun = Phase.begin()
    assert begun.enter(State.OPENING) is begun
    failed = begun.failed("no store", restarts=True).enter(State.WAITING)
    assert (failed.state, failed.failure, failed.restarts) == (State.WAITING, "no store", 1)
    assert failed.since_ns >= begun.since_ns
    assert failed.opened().failure == ""
    assert failed.failed("fenced", restarts=False).restarts == 1
