"""What was true once is not shown as the present: of a closed domain the age goes on and the state is unknown."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from jetdr_core.domain import DomainStatus
from jetdr_core.domain.hosting.standby import ClosedGuests
from jetdr_core.drva.alarms import Alarm, Situation, alarms_of
from jetdr_core.drva.as_of import AsOf
from jetdr_core.drva.config import DomainConfig
from jetdr_core.drva.configured_domain import AnyDomain
from jetdr_core.drva.domain_state import Condition, DomainState
from jetdr_core.drva.metrics import DrvaCollector
from jetdr_core.drva.rpo_file import RpoFile
from jetdr_core.drva.session_state import SessionView, State
from jetdr_core.errors import InvalidRequest
from jetdr_core.uploader import LATENCY_BOUNDS_S
from tests.cli.jetdr_command import jetdr
from tests.drva.running_drva import Place, embedded, place, running
from tests.drva.test_domain_state import HOST, status
from tests.drva.test_metrics import scraped


class Opener:
    """Opens domains until ``closed`` is set."""

    def __init__(self) -> None:
        self.closed = False

    async def __call__(self, config: DomainConfig) -> AnyDomain:
        if self.closed:
            raise InvalidRequest("the log is away", hint="plug it in")
        return await embedded(config)


def told(here: Place) -> Any:
    (found,) = here.ask("status", domain="payroll")["domains"]
    return found


def test_a_closed_domain_shows_an_age_that_goes_on_and_no_state_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opener = Opener()
    with place("payroll") as here:
        monkeypatch.setenv("JETDR_SOCKET", str(here.socket))
        here.write(drva='metrics = "127.0.0.1:0"\n', domain="rpo_alarm_s = 0.2")
        with running(here, opener=opener) as drva:
            here.until(lambda s: s["consistent"] and s["lsn_uploaded"] == s["lsn_reserved"])
            assert told(here)["rpo_s"] == 0
            assert told(here)["last_known"] is None
            here.ask("unprotect", domain="payroll", disk="db01")
            here.until(lambda s: not s["consistent"])
            opener.closed = True
            drva.drva.sessions["payroll"].run(drva.domain().close(upload=False)).result(20)
            here.until(lambda s: s["restarts"])
            first, at_s = here.until(lambda s: s["rpo_s"] > 0.2), time.monotonic()
            found = told(here)
            assert found["status"] is None
            assert found["last_known"]["consistent"] is False
            assert found["as_of_ns"] == first["as_of_ns"] <= time.time_ns()
            names = {alarm["name"]: alarm["text"] for alarm in found["alarms"]}
            assert set(names) == {"closed", "rpo", "not_consistent"}
            assert "(as of " in names["not_consistent"]
            metrics = scraped(here)
            assert metrics["jetdr_rpo_seconds", "payroll"] >= first["rpo_s"]
            assert metrics["jetdr_status_age_seconds", "payroll"] > 0
            assert metrics["jetdr_alarm", "payroll", "not_consistent"] == 1
            assert not {"jetdr_consistent", "jetdr_lsn_uploaded", "jetdr_disk_ready"} & {name for name, *_ in metrics}
            said = jetdr("status", "payroll").out
            assert "no: it protects no disk, as of " in said
            assert "not known; the last one is of " in said
            row = jetdr("watch", "--once").out
            assert ", as of " in row
            assert "consistent" not in row.replace("not_consistent", "")
            assert told(here)["rpo_s"] - first["rpo_s"] == pytest.approx(time.monotonic() - at_s, abs=1)
            opener.closed = False
            here.until(lambda s: s["status"] is not None)
            assert told(here)["last_known"] is None


def test_of_a_domain_that_was_never_open_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener()
    opener.closed = True
    with place("payroll") as here:
        monkeypatch.setenv("JETDR_SOCKET", str(here.socket))
        here.write(drva='metrics = "127.0.0.1:0"\n')
        with running(here, opener=opener):
            found = here.until(lambda s: s["restarts"])
            assert [found[key] for key in ("status", "last_known", "rpo_s", "status_age_s", "as_of")] == [None] * 5
            names = {name for name, *_ in scraped(here)}
            assert "jetdr_domain_open" in names
            assert not {"jetdr_rpo_seconds", "jetdr_status_age_seconds", "jetdr_consistent"} & names
            assert "nothing is known yet" in jetdr("status", "payroll").out
            assert "nothing known yet" in jetdr("watch", "--once").out


def test_what_the_run_before_knew_of_the_rpo_goes_on_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is away at a restart, and nobody knows what guests write."""
    opener = Opener()
    with place("payroll") as here:
        here.write(drva='metrics = "127.0.0.1:0"\n', domain="rpo_alarm_s = 0.1")
        with running(here):
            here.until(lambda s: s["consistent"])
            noted = here.path / "state" / "payroll" / "rpo"
            while not noted.exists():
                time.sleep(0.01)
            noted_ns = json.loads(noted.read_text())["at_ns"]
        opener.closed = True
        with running(here, opener=opener):
            found = here.until(lambda s: s["restarts"] and s["rpo_s"] > 0.1)
            assert found["rpo_s"] == pytest.approx((time.time_ns() - noted_ns) / 1e9, abs=5)
            assert [alarm["name"] for alarm in found["alarms"]] == ["closed", "rpo"]
            assert found["status"] is found["last_known"] is None
            assert scraped(here)["jetdr_rpo_seconds", "payroll"] >= found["rpo_s"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"rpo_s": -1, "at_ns": 1}', '{"rpo_s": 1, "at_ns": 1e30}', '{"at_ns": 1}']
)
def test_a_file_that_says_nothing_of_the_rpo_is_no_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "rpo").write_text(text)
    assert RpoFile(tmp_path).rpo_s is None


def test_a_file_that_no_run_made_says_nothing_of_the_rpo(tmp_path: Path) -> None:
    """It is looked at before the state folder is checked. A pipe would hold up the start of the DRVA for ever."""
    os.mkfifo(tmp_path / "rpo")
    assert RpoFile(tmp_path).rpo_s is None
    (tmp_path / "rpo").unlink()
    (tmp_path / "other").write_text('{"rpo_s": 1, "at_ns": 1}')
    (tmp_path / "rpo").symlink_to(tmp_path / "other")
    assert RpoFile(tmp_path).rpo_s is None
    (tmp_path / "other").replace(tmp_path / "rpo")
    assert RpoFile(tmp_path).rpo_s is not None
    (tmp_path / "rpo").chmod(0o666)
    assert RpoFile(tmp_path).rpo_s is None


# -- alarms ------------------------------------------------------------------------------------------------------------


def situation(
    *,
    closed: bool = False,
    age_s: float = 0.0,
    failure: str = "",
    disks: Sequence[object] = (),
    status: Mapping[str, object] | None = None,
    **more: Any,
) -> Situation:
    shown: dict[str, Any] = {
        "rpo_s": 1.0,
        "host": None,
        "forged": "",
        "store_lost": False,
        "store_refused": "",
        "heartbeat_refused": "",
        "joined": True,
    }
    shown |= {"failure": "", "store_away_s": 0.0, "log_bytes": 100, "log_used_bytes": 95, "consistent": True}
    shown |= {"clock": "", "changed": "", "log_cut": "", "log_trouble": None, "state_trouble": None, "lost_files": ()}
    shown |= {"disks": disks, "name": "payroll", "epoch": 3}
    taken = cast(DomainStatus, type("Status", (), shown | dict(status or {})))
    return Situation(
        fenced=False,
        closed=closed,
        failure=failure,
        pause=None,
        last=AsOf(taken, 0, age_s, is_present=not closed and age_s < 5),
        rpo_s=1.0 if age_s < 5 and not closed else 1.0 + age_s,
        rpo_alarm_s=60,
        unprotected=("disk 'db02': missing",),
        standing=ClosedGuests(),
        condition=Condition(DomainState.PROTECTED, 0, ""),
        now_ns=0,
        **more,
    )


def test_an_alarm_whose_cause_may_last_stays_when_the_domain_does_not_answer() -> None:
    assert alarms_of(situation(closed=False, age_s=1.0)) == [
        Alarm("log_nearly_full", "the log is 95 % full"),
        Alarm("disk_not_protected", "disk 'db02': missing"),
    ]
    assert alarms_of(situation(closed=False, age_s=24.0)) == [
        Alarm("no_answer", "no status for 24 s"),
        Alarm("log_nearly_full", "the log is 95 % full (as of 24 s ago)"),
        Alarm("disk_not_protected", "disk 'db02': missing"),
    ]
    assert [alarm.name for alarm in alarms_of(situation(closed=True, age_s=61.0, failure="the log is away"))] == [
        "closed",
        "rpo",
        "log_nearly_full",
        "disk_not_protected",
    ]


def test_a_domain_that_does_not_get_open_is_an_alarm_although_nothing_has_failed() -> None:
    found = alarms_of(situation(closed=True, age_s=1.0, opening_s=61.0))
    assert found[0] == Alarm("no_answer", "the domain has been opening for 61 s")


# -- counters of a host component --------------------------------------------------------------------------------------


def shown(counted_age_s: float | None) -> set[str]:
    """The metrics of a disk whose host component reported that long ago."""
    known = status(
        host=replace(HOST, counted_age_s=counted_age_s), upload_latency_counts=(0,) * (len(LATENCY_BOUNDS_S) + 1)
    )
    view = SessionView(
        name="payroll",
        state=State.OPEN,
        since_ns=0,
        restarts=0,
        pause=None,
        failure="",
        condition=Condition(DomainState.PROTECTED, 0, ""),
        alarms=(),
        alarms_ended=(),
        last=AsOf(known, 0, 0.0, is_present=True),
        rpo_s=0.0,
    )
    families = DrvaCollector(lambda: [view], 0.0).collect()
    return {sample.name for family in families for sample in family.samples}


def test_what_a_host_component_has_not_reported_lately_is_not_told_as_present() -> None:
    counted = {"jetdr_disk_writes_total", "jetdr_disk_written_bytes_total"}
    assert counted <= shown(1.0)
    assert not counted & shown(24.0)
    assert not counted & shown(None)
    assert "jetdr_disk_bytes" in shown(24.0)


def test_a_host_component_that_does_not_answer_is_an_alarm_although_it_runs() -> None:
    known = status(host=replace(HOST, counted_age_s=24.0), disks=())
    found = alarms_of(replace(situation(closed=False, age_s=0.0), last=AsOf(known, 0, 0.0, is_present=True)))
    assert Alarm("host_failure", "the host component has not answered for 24 s") in found
