"""Causes: which findings stand for themselves, and which only follow from another one.

One fault is found by many checks. Whoever reads them at night mends the one that is the cause, and the others go away.

Invariants: only a wrong finding is a cause, and a cause follows from nothing. No finding is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jetdr_core.drva.config import DomainConfig
from jetdr_core.drva.doctor.finding import Finding, Verdict

__all__ = ["FOLLOWS", "GroupedAlarm", "checks_that_explain", "grouped", "with_causes"]

_STORE_FAILS = ("store_lost", "forged", "store_away", "upload_stopped")
_NO_UPLOADS = (*_STORE_FAILS, "closed", "paused")

FOLLOWS = {
    "closed": ("forged",),
    "upload_stopped": ("store_lost", "forged"),
    "heartbeat_refused": ("store_lost", "upload_stopped"),
    "logging_off": ("closed", "host_away"),
    "host_away": ("host_failure",),
    "rpo": (*_NO_UPLOADS, "logging_off", "throttled", "no_answer"),
    "log_nearly_full": _NO_UPLOADS,
    "throttled": _NO_UPLOADS,
    "not_consistent": (
        *("closed", "store_lost", "logging_off", "disk_failed", "disk_not_configured", "disk_changed"),
        *("primary_failed", "host_away"),
    ),
}
"""The alarms that only follow from others while those last."""

_NAMES_A_PATH = re.compile(r"(?:^|[\s'])/")


@dataclass(frozen=True, slots=True)
class GroupedAlarm:
    """An alarm that stands for itself, and the names of those that follow from it."""

    name: str
    text: str
    followers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{', '.join((self.name, *self.followers))}: {self.text}"


def grouped(alarms: Sequence[tuple[str, str]]) -> list[GroupedAlarm]:
    """Return the alarms, each a name and its text, so that each that follows from another one stands with that."""
    raised = {name for name, _ in alarms}
    leading = [GroupedAlarm(name, text) for name, text in alarms if not raised.intersection(FOLLOWS.get(name, ()))]
    for name in dict.fromkeys(name for name, _ in alarms):
        if causes := _leading_causes(name, raised) - {name}:
            nth = next(nth for nth, alarm in enumerate(leading) if alarm.name in causes)
            leading[nth] = replace(leading[nth], followers=(*leading[nth].followers, name))
    return leading


def _leading_causes(name: str, raised: set[str]) -> set[str]:
    causes = raised.intersection(FOLLOWS.get(name, ()))
    return set().union(*(_leading_causes(cause, raised) for cause in causes)) if causes else {name}


def checks_that_explain(alarm: str, text: str, domain: DomainConfig) -> tuple[str, ...]:
    """Return the checks of which any that is wrong explains an alarm of the domain."""
    name, volume = f"domain {domain.name}", f"volume {domain.volume.name}"
    stored = [f"{name}: {what}" for what in ("key file", "store", "rights to write", "key")] + [
        f"room: store of {domain.name}"
    ]
    logged = [f"{volume}: owner", volume, f"{volume}: space", f"{volume}: use", f"{name}: log"]
    hosted = ["nbdkit", "nbdkit plugin", "room: runtime_dir", f"{name}: runtime folder", f"{name}: host component"]
    disks = [f"disk {domain.name}/{disk.name}" for disk in domain.disk if repr(disk.name) in text]
    explain = {
        "closed": [*logged, *stored, "room: state_dir", f"{name}: state folder", *hosted],
        "logging_off": logged,
        "host_away": hosted,
        "host_failure": hosted,
        "clock": [f"{name}: record clock"],
    }
    if alarm in {*_STORE_FAILS, "heartbeat_refused"}:
        return tuple(stored)
    return tuple(explain.get(alarm, [place for disk in disks for place in (disk, f"{disk}: use")]))


def with_causes(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, and in each that only follows from another one the check that is its cause."""
    found = list(findings)
    wrong = {one.check: one for one in reversed(found) if one.verdict is Verdict.WRONG}
    remedies = {one.remedy: one.check for one in reversed(found) if one.verdict is Verdict.WRONG}
    return [replace(one, cause=_cause_of(one, wrong, remedies)) for one in found]


def _cause_of(found: Finding, wrong: dict[str, Finding], remedies: dict[str, str]) -> str:
    """Return the check from which the finding follows in the end. Empty if it stands for itself."""
    here, seen = found, {found.check}
    while (check := _next_cause(here, wrong, remedies)) and check not in seen:
        seen.add(check)
        here = wrong[check]
    return here.check if here.check != found.check else ""


def _next_cause(found: Finding, wrong: dict[str, Finding], remedies: dict[str, str]) -> str:
    """A check that explains the finding, or else an earlier one that the same action on the same path mends."""
    if found.verdict is Verdict.GOOD:
        return ""
    if explained := next((check for check in found.after if check in wrong), ""):
        return explained
    return remedies.get(found.remedy, "") if _NAMES_A_PATH.search(found.remedy) else ""
