"""Diagnosis: makes all checks of a machine and its configuration, none of which waits for one that hangs.

Invariants: nothing is changed. A check that does not end in time is reported as that, and the others go on.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from jetdr_core.drva.config import DrvaConfig, load_config
from jetdr_core.drva.doctor.disk_checks import disk_checks
from jetdr_core.drva.doctor.finding import Check, Finding, NotKnown, finding_of, good, wrong
from jetdr_core.drva.doctor.log_checks import log_checks
from jetdr_core.drva.doctor.machine_checks import machine_checks
from jetdr_core.drva.doctor.operation_checks import operation_checks
from jetdr_core.drva.doctor.place_checks import place_checks
from jetdr_core.drva.doctor.room_checks import room_checks
from jetdr_core.drva.doctor.store_checks import store_checks
from jetdr_core.errors import JetdrError
from jetdr_core.ownership import check_guarded
from jetdr_core.patience import each_within

__all__ = ["LIMIT_S", "Diagnosis", "diagnose"]

LIMIT_S = 20.0
"""A store that is far away answers within this. What takes longer is told to hang."""

AT_ONCE = 64
"""So many checks are made at the same time."""


class Diagnosis:
    """The findings, as they come. ``is_hanging``: the thread of a check has not ended, and may never."""

    def __init__(self, checks: Sequence[Check], *, limit_s: float = LIMIT_S, config: str = "CONFIG") -> None:
        self._checks = checks
        self._limit_s = limit_s
        self._config = config
        self.is_hanging = False

    def __iter__(self) -> Iterator[Finding]:
        for first in range(0, len(self._checks), AT_ONCE):
            batch = self._checks[first : first + AT_ONCE]
            results = each_within(self._limit_s, lambda check: check.look(), batch)
            for check, result in zip(batch, results, strict=True):
                found = self._found(check, result)
                for one in (found, *found.more):
                    remedy = one.remedy.replace("CONFIG", self._config)
                    yield replace(one, check=check.name, remedy=remedy, more=())

    def _found(self, check: Check, result: Future[Finding]) -> Finding:
        if not result.done():
            self.is_hanging = True
            told = f"no answer within {self._limit_s:g} s"
            return replace(wrong(told, "look at the device, file system or network it is on"), after=check.needs)
        error = result.exception()
        if error is None:
            return result.result()
        if isinstance(error, NotKnown):
            return replace(finding_of(error), after=error.needs or check.needs)
        return finding_of(error)


def diagnose(path: Path) -> Diagnosis:
    """Return the diagnosis of this machine, and of the configuration at ``path`` if it can be read."""
    try:
        check_guarded("the configuration", path)
        config = load_config(path)
    except (JetdrError, OSError) as error:
        found = finding_of(error)
        return Diagnosis([Check("configuration", lambda: found), *machine_checks(None)])
    named = f"{path}: {len(config.domains)} domains, {len(config.volumes)} volumes"
    checks = [Check("configuration", lambda: good(named)), *checks_of(config)]
    return Diagnosis(checks, config=shlex.quote(str(path)))


def checks_of(config: DrvaConfig) -> Iterable[Check]:
    """Every check of a configuration and its machine, in the order in which to mend what is wrong."""
    yield from machine_checks(config)
    yield from place_checks(config)
    yield from room_checks(config)
    yield from log_checks(config)
    yield from disk_checks(config)
    yield from store_checks(config)
    yield from operation_checks(config)
