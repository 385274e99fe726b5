"""One state says where a domain stands: that which protects least, with why and since when."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from jetdr_core.domain.hosting.standby import ClosedGuests
from jetdr_core.domain.ladder import LadderStatus, Rung
from jetdr_core.domain.status import DiskStatus, DomainStatus, HostStatus
from jetdr_core.drva.alarms import Situation, alarms_of
from jetdr_core.drva.as_of import AsOf
from jetdr_core.drva.domain_state import Condition, DomainState, condition_of

DOCUMENTATION = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def blank(kind: type) -> dict[str, object]:
    """Every field, as of a domain that is well."""
    empty: dict[str, object] = {"str": "", "int": 0, "float": 0.0, "bool": False}
    types = {name: _type(of) for name, of in kind.__annotations__.items()}
    return {name: None if of.endswith("None") else empty.get(of, ()) for name, of in types.items()}


def _type(annotation: str) -> str:
    return re.sub(r"^Annotated\[\s*([^,]+),.*", r"\1", annotation, flags=re.DOTALL)


DISK = DiskStatus(**blank(DiskStatus) | {"name": "db01", "ready": True})  # type: ignore[arg-type]
HOST = HostStatus(**blank(HostStatus) | {"alive": True, "logging": True, "counted_age_s": 0.0})  # type: ignore[arg-type]


def status(rung: Rung = Rung.DIRECT, why: str = "", **changes: object) -> DomainStatus:
    ladder = LadderStatus(rung.value, 0, why, None)
    well = {"joined": True, "consistent": True, "host": HOST, "disks": (DISK,), "ladder": ladder}
    return DomainStatus(**blank(DomainStatus) | well | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "state", "why"),
    [
        (status(), DomainState.PROTECTED, ""),
        (status(Rung.SPILL, "the log is 20% full"), DomainState.PROTECTED, ""),
        (status(Rung.THROTTLED, "70 %"), DomainState.THROTTLED, "70 %"),
        (status(Rung.RESYNC, "copied", consistent=False, why_inconsistent="a gap"), DomainState.RESYNC, "a gap"),
        (status(Rung.BYPASS, "full"), DomainState.LOGGING_OFF, "full"),
        (status(host=replace(HOST, logging=False)), DomainState.LOGGING_OFF, "logging is off"),
        (status(Rung.PROBE, "guests write"), DomainState.RETURNING, "guests write"),
        (status(failure="refused"), DomainState.UPLOAD_STOPPED, "refused"),
        (status(joined=False, store_away="no answer"), DomainState.STORE_AWAY, "no answer"),
        (status(store_away_s=60.0, store_away="no answer"), DomainState.STORE_AWAY, "no answer"),
        (status(store_refused="HTTP 403"), DomainState.STORE_REFUSES, "HTTP 403"),
        (status(store_refused="HTTP 403", joined=False), DomainState.STORE_REFUSES, "HTTP 403"),
        (status(paused=True), DomainState.PAUSED, "an operator paused uploading"),
        (
            status(disks=(DISK, replace(DISK, name="db02", ready=False))),
            DomainState.INITIAL_COPY,
            "disk 'db02' is copied for the first time",
        ),
        (status(consistent=False, why_inconsistent="a gap"), DomainState.NOT_CONSISTENT, "a gap"),
        (status(Rung.THROTTLED, "70 %", store_away_s=9.0, store_away="no answer"), DomainState.STORE_AWAY, "no answer"),
    ],
    ids=lambda value: value.value if isinstance(value, DomainState) else "",
)
def test_the_state_that_protects_least_is_the_state(seen: DomainStatus, state: DomainState, why: str) -> None:
    assert condition_of(seen, None) == (state, why)


def test_a_state_keeps_its_beginning_and_tells_the_newest_reason() -> None:
    begun = Condition(DomainState.PROTECTED, 1, "").then(DomainState.THROTTLED, "70 %", 5)
    assert begun == Condition(DomainState.THROTTLED, 5, "70 %")
    assert begun.then(DomainState.THROTTLED, "75 %", 9) == Condition(DomainState.THROTTLED, 5, "75 %")


@pytest.mark.parametrize(("lasts_s", "alarms"), [(299, []), (301, ["throttled"])])
def test_backpressure_that_lasts_is_an_alarm_with_its_beginning(lasts_s: int, alarms: list[str]) -> None:
    situation = Situation(
        fenced=False,
        closed=False,
        failure="",
        pause=None,
        last=AsOf(status(Rung.THROTTLED, "70 %"), 0, 0.0, is_present=True),
        rpo_s=1.0,
        rpo_alarm_s=60,
        unprotected=(),
        standing=ClosedGuests(),
        condition=Condition(DomainState.THROTTLED, 0, "70 %"),
        now_ns=lasts_s * 10**9,
    )
    found = alarms_of(situation)
    assert [alarm.name for alarm in found] == alarms
    assert all("since 1970-01-01T00:00:00" in alarm.text and "70 %" in alarm.text for alarm in found)


def test_every_state_is_documented_and_no_other() -> None:
    section = DOCUMENTATION.split("### States")[1].split("\n#")[0]
    assert re.findall(r"^\| `([a-z_]+)`", section, re.MULTILINE) == [state.value for state in DomainState]
