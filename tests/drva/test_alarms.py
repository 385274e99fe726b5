"""Alarms are states: each begins with its cause and ends with it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from jetdr_core._core import FilterStats
from jetdr_core.cli.exits import ExitCode
from jetdr_core.domain import DiskTrouble
from jetdr_core.drva.alarm_log import Acknowledged, AlarmLog, AlarmMemory, AlarmState
from jetdr_core.drva.alarms import Alarm, alarms_of
from jetdr_core.drva.alarms_file import AlarmsFile
from tests.cli.jetdr_command import jetdr
from tests.drva.running_drva import place, running
from tests.drva.test_as_of import situation

SINCE_NS = 1_700_000_000_000_000_000


@pytest.mark.parametrize(("trouble", "calls"), [(1, "flushes"), (2, "writes"), (3, "reads")])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_trouble_of_a_disk_says_which_calls_fail_why_and_since_when(trouble: int, calls: str, number: int) -> None:
    stats = FilterStats(trouble=trouble, trouble_errno=number, trouble_since_ns=SINCE_NS, failed_writes=7)
    found = DiskTrouble.of(stats)
    is_full = calls == "writes" and number in {errno.ENOSPC, errno.EDQUOT}
    assert found == DiskTrouble(calls, os.strerror(number), SINCE_NS, is_full)


def test_a_disk_that_failed_once_and_answers_rightly_is_in_no_trouble() -> None:
    assert DiskTrouble.of(FilterStats(failed_writes=7)) is None


# -- beginning, end, acknowledgement -----------------------------------------------------------------------------------

HOUR_NS = 3600 * 10**9


class Clock:
    def __init__(self) -> None:
        self.now_ns = SINCE_NS

    def __call__(self) -> int:
        return self.now_ns


def seen(states: Iterable[AlarmState]) -> list[tuple[str, int, int]]:
    return [(state.text, state.since_ns - SINCE_NS, state.ended_ns and state.ended_ns - SINCE_NS) for state in states]


def test_an_alarm_has_its_beginning_and_is_visible_for_a_day_after_its_end() -> None:
    clock = Clock()
    alarms = AlarmLog("payroll", now_ns=clock)
    alarms.note([Alarm("rpo", "70 s")])
    clock.now_ns += 1000
    assert seen(alarms.note([Alarm("rpo", "71 s")])) == [("71 s", 0, 0)]
    assert seen(alarms.ended) == []
    clock.now_ns += 1000
    assert alarms.note([]) == ()
    assert seen(alarms.ended) == [("71 s", 0, 2000)]
    clock.now_ns += 24 * HOUR_NS
    assert seen(alarms.ended) == []


def test_an_acknowledged_alarm_stays_while_its_cause_does_and_not_longer() -> None:
    alarms = AlarmLog("payroll", now_ns=Clock())
    alarms.note([Alarm("rpo", "x"), Alarm("paused", "y")])
    assert alarms.acknowledge("rpo") == Acknowledged(1, over=(), present=("rpo",))
    assert alarms.acknowledge("rpo") == Acknowledged(0, over=(), present=("rpo",))
    rpo, paused = alarms.note([Alarm("rpo", "x"), Alarm("paused", "y")])
    assert (rpo.acknowledged, paused.acknowledged) == (True, False)
    alarms.note([])
    assert [state.name for state in alarms.ended] == ["paused"]
    assert not alarms.note([Alarm("rpo", "again")])[0].acknowledged
    assert alarms.acknowledge() == Acknowledged(2, over=("paused",), present=("rpo",))
    assert alarms.ended == ()


def test_an_event_is_over_once_it_is_acknowledged_and_the_next_one_is_an_alarm_again() -> None:
    clock = Clock()
    alarms = AlarmLog("payroll", now_ns=clock)
    first, second = (
        Alarm("disk_changed", "db01 was changed", event=5),
        Alarm("disk_changed", "db01 was changed", event=6),
    )
    alarms.note([first])
    assert alarms.acknowledge("rpo") == Acknowledged()
    assert alarms.acknowledge() == Acknowledged(1, over=("disk_changed",))
    assert alarms.note([replace(first, text="db01 was changed (as of 7 s ago)")]) == ()
    assert alarms.dated([first]) == alarms.ended == ()
    assert alarms.acknowledge() == Acknowledged()
    clock.now_ns += 1000
    assert seen(alarms.note([second])) == [("db01 was changed", 1000, 0)]
    alarms.note([])
    assert seen(alarms.ended) == [("db01 was changed", 1000, 1000)]
    assert alarms.acknowledge() == Acknowledged(1, over=("disk_changed",))


def test_what_an_alarm_log_remembers_goes_over_a_restart(tmp_path: Path) -> None:
    clock, file = Clock(), AlarmsFile(tmp_path, "payroll")
    log = AlarmLog("payroll", now_ns=clock, before=file.read(), keep=file.keep)
    log.note(
        [Alarm("rpo", "70 s"), Alarm("paused", "by hand"), Alarm("clock", "ahead"), Alarm("log_cut", "x", event=3)]
    )
    log.acknowledge("paused")
    log.acknowledge("log_cut")
    clock.now_ns += 1000
    log.note([Alarm("rpo", "71 s"), Alarm("paused", "by hand")])
    file.close()
    again = AlarmsFile(tmp_path, "payroll")
    log = AlarmLog("payroll", now_ns=clock, before=again.read(), keep=again.keep)
    assert seen(log.ended) == [("ahead", 0, 1000)]
    clock.now_ns += 1000
    assert log.note([Alarm("log_cut", "x", event=3)], all_known=False) == ()
    assert seen(log.ended) == [("ahead", 0, 1000)], "whether the others have ended is not known yet"
    (paused,) = log.note([Alarm("paused", "by hand")])
    assert (paused.since_ns, paused.acknowledged) == (SINCE_NS, True)
    assert seen(log.ended) == [("71 s", 0, 2000), ("ahead", 0, 1000)]
    log.acknowledge()
    again.close()
    last = AlarmsFile(tmp_path, "payroll").read()
    assert (list(last.present), list(last.ended)) == ([("paused", "")], [])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"version": 1}',
        b'{"version": 1, "present": [{}], "ended": [], "seen": []}',
        b'{"version": 1, "present": [], "ended": [], "seen": [["log_cut", "", 1e999]]}',
    ],
)
def test_a_damaged_file_of_alarms_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "payroll").mkdir(mode=0o700)
    (tmp_path / "payroll" / "alarms").write_bytes(content)
    (tmp_path / "payroll" / "alarms").chmod(0o600)
    assert AlarmsFile(tmp_path, "payroll").read() == AlarmMemory()


def test_a_file_of_alarms_that_cannot_be_written_holds_up_nobody(tmp_path: Path) -> None:
    (tmp_path / "payroll").mkdir(mode=0o700)
    (tmp_path / "payroll" / "alarms.new").mkdir()
    file = AlarmsFile(tmp_path, "payroll")
    log = AlarmLog("payroll", keep=file.keep)
    assert log.note([Alarm("rpo", "70 s")])
    file.close()
    assert AlarmsFile(tmp_path, "payroll").read() == AlarmMemory()


def test_what_happened_at_an_opening_is_an_event_and_all_else_is_a_state() -> None:
    status = {"changed": "db01 was changed", "log_cut": "it was cut", "consistent": False, "why_inconsistent": "resync"}
    found = alarms_of(situation(status=status))
    assert {alarm.name for alarm in found if alarm.event} == {"disk_changed", "log_cut"}
    assert "not_consistent" in {alarm.name for alarm in found}


def test_the_same_alarm_of_two_disks_is_two_alarms() -> None:
    alarms = AlarmLog("payroll", now_ns=Clock())
    both = [Alarm("disk_failed", "a", "db01"), Alarm("disk_failed", "b", "db02")]
    assert [state.text for state in alarms.note(both)] == ["a", "b"]
    alarms.note(both[1:])
    assert [state.text for state in alarms.ended] == ["a"]
    assert len(alarms.note([Alarm("config_not_kept", "a"), Alarm("config_not_kept", "b")])) == 2


def test_two_disks_that_have_grown_are_two_alarms_however_old_the_status_is() -> None:
    """What changes each second is no part of what tells the alarms apart. Else each look would begin and end one."""
    shown = {
        "path": "/srv/disk",
        "fault": None,
        "trouble": None,
        "map_failure": None,
        "size_bytes": 512,
        "primary_bytes": 1024,
    }
    disks = [type("Disk", (), {"name": name, **shown}) for name in ("db01", "db02")]
    alarms = AlarmLog("payroll", now_ns=Clock())
    for age_s in (7.0, 8.0, 9.0):
        grown = [one for one in alarms_of(situation(closed=True, age_s=age_s, disks=disks)) if one.name == "disk_grown"]
        assert len(alarms.note(grown)) == 2
        assert alarms.ended == ()


def test_looking_notes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    alarms = AlarmLog("payroll", now_ns=Clock())
    assert seen(alarms.dated([Alarm("rpo", "70 s")])) == [("70 s", 0, 0)]
    assert not caplog.records
    assert alarms.ended == ()


def test_alarms_are_listed_and_acknowledged_at_the_command_line() -> None:
    with place("payroll") as here, running(here) as drva:
        socket, session = ["--socket", here.socket], drva.drva.sessions["payroll"]
        here.until(lambda found: not found["alarms"])
        here.ask("pause", domain="payroll")
        session.note_alarms()
        (paused,) = here.until(lambda found: found["alarms"])["alarms"]
        assert paused["since_ns"] <= time.time_ns()
        said = jetdr("acknowledge", "payroll", "paused", *socket).out
        assert said == "1 alarm acknowledged; stays until its cause ends: paused\n"
        (listed,) = jetdr("alarms", "--json", *socket).json
        assert (listed["domain"], listed["name"], listed["acknowledged"]) == ("payroll", "paused", True)
        here.ask("resume", domain="payroll")
        session.note_alarms()
        here.ask("pause", domain="payroll")
        session.note_alarms()
        here.ask("resume", domain="payroll")
        session.note_alarms()
        assert "paused" in jetdr("alarms", "payroll", *socket).out
        assert "ended alarm   paused, " in jetdr("status", *socket).out
        assert jetdr("acknowledge", *socket).out == "1 alarm acknowledged; over: paused\n"
        assert jetdr("alarms", *socket).out == "no alarm\n"
        assert jetdr("acknowledge", "nosuch", *socket).code == ExitCode.USAGE


def test_a_drva_that_was_restarted_knows_since_when_an_alarm_is_there_and_which_ended() -> None:
    with place("payroll") as here:
        with running(here, create=True) as drva:
            here.until(lambda found: found["consistent"] and not found["alarms"])
            moved = (here.path / "state" / "payroll" / "domain.key").rename(here.path / "aside")
            here.until(lambda found: found["alarms"])
            moved.rename(here.path / "state" / "payroll" / "domain.key")
            (ended,) = here.until(lambda found: found["alarms_ended"])["alarms_ended"]
            here.ask("pause", domain="payroll")
            drva.drva.sessions["payroll"].note_alarms()
            here.ask("acknowledge", domain="payroll", alarm="paused")
            (paused,) = here.status()["alarms"]
        with running(here):
            found = here.until(lambda found: found["state"] == "open" and found["alarms"])
            assert found["alarms"] == [paused]
            assert paused["acknowledged"]
            assert found["alarms_ended"] == [ended]
            assert ended["name"] == "file_lost"
