"""Checks of the places that a configuration names: who can change them, and what is there.

A DRVA makes those that are needed before it starts, and ``jetdr drva --check`` makes them all.

Invariant: nothing is changed. A place that does not exist yet is not wrong.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.config import Address, DrvaConfig
from jetdr_core.drva.doctor.account import drva_user, look_at_account
from jetdr_core.drva.doctor.finding import Check, Finding, Verdict, doubtful, good
from jetdr_core.drva.doctor.in_use import is_running
from jetdr_core.drva.metrics_listener import why_not_served
from jetdr_core.drva.places import check_volume
from jetdr_core.ownership import check_guarded, check_in_memory, check_private
from jetdr_core.patience import PLACE_LIMIT_S, each_within
from jetdr_core.store.connect import variables_of
from jetdr_core.store.credential_file import check_credential_file
from jetdr_core.unix_socket import check_socket_place

__all__ = ["check_all_places", "check_places", "place_checks"]

log = logging.getLogger(__name__)


def place_checks(config: DrvaConfig) -> Iterator[Check]:
    """The checks of all places but disks and stores."""
    yield Check("account", partial(look_at_account, config))
    yield from _needed_checks(config, partial(drva_user, config))
    for domain in config.domains:
        if domain.key_file:
            yield _passing(f"domain {domain.name}: key_file", domain.key_file, KeyFile(Path(domain.key_file)).read)
        if domain.credential_file:
            file = Path(domain.credential_file)
            check = partial(check_credential_file, file, variables_of(domain.store))
            yield _passing(f"domain {domain.name}: credential_file", str(file), check)
    if config.metrics is not None:
        yield Check("metrics", partial(_look_at_metrics, config, config.metrics))


def check_places(config: DrvaConfig) -> None:
    """Raise the error of the first place that the DRVA would not use. One that hangs is checked before it is used."""
    _made(list(_needed_checks(config, os.geteuid)))


def check_all_places(config: DrvaConfig) -> list[Finding]:
    """The same with what one domain alone needs, or no domain. Returns what is doubtful."""
    found = _made(list(place_checks(config)))
    return [finding for finding in found if finding.verdict is Verdict.DOUBTFUL]


def _made(checks: Sequence[Check]) -> list[Finding]:
    """Make the checks at the same time. Raises the error of the first that raised one."""
    found = []
    for check, checked in zip(checks, each_within(PLACE_LIMIT_S, lambda check: check.look(), checks), strict=True):
        if checked.done():
            found.append(checked.result())
        else:
            log.error("%s: no answer within %g s; whatever uses it waits", check.name, PLACE_LIMIT_S)
    return found


def _needed_checks(config: DrvaConfig, user: Callable[[], int]) -> Iterator[Check]:
    """The checks without which no DRVA of ``user`` starts."""
    runtime, state = config.runtime_dir, config.state_dir
    yield _needed("runtime_dir", str(runtime), check_private, "runtime_dir", runtime, user=user)
    tmpfs = _passing("runtime_dir: tmpfs", f"{runtime} is in memory", check_in_memory, "runtime_dir", runtime)
    yield Check(tmpfs.name, tmpfs.look, is_needed=True)
    yield _needed("state_dir", str(state), check_guarded, "state_dir", state, user=user)
    for domain in config.domains:
        name, here = domain.name, f"domain {domain.name!r}: "
        yield _needed(
            f"domain {name}: runtime folder",
            str(runtime / name),
            check_private,
            f"{here}the runtime folder",
            runtime / name,
            user=user,
        )
        yield _needed(
            f"domain {name}: state folder",
            str(state / name),
            check_private,
            f"{here}the state folder",
            state / name,
            user=user,
        )
        for key in ("credential_file", "key_file"):
            if file := getattr(domain, key):
                yield _needed(f"domain {name}: owner of {key}", file, check_guarded, here + key, Path(file), user=user)
    if config.control_socket.parent != runtime or os.path.lexists(runtime):
        socket = config.control_socket
        yield _needed("control_socket", str(socket), check_socket_place, "control_socket", socket, user=user)
    for volume in config.volumes:
        here = f"volume {volume.name!r}: "
        if file := volume.password_file:
            yield _needed(f"{here}password_file", file, check_guarded, f"{here}password_file", Path(file), user=user)
    for volume in config.volumes:
        yield _needed(f"volume {volume.name}: owner", volume.path, check_volume, volume, user=user)


def _passing(name: str, told: str, check: Callable[..., object], *arguments: Any) -> Check:
    """A check that is passed unless ``check`` raises an error."""

    def look() -> Finding:
        check(*arguments)
        return good(told)

    return Check(name, look)


def _needed(name: str, told: str, check: Callable[..., object], *arguments: Any, user: Callable[[], int]) -> Check:
    """A check for ``user``, which is found out when the check is made."""
    passing = _passing(name, told, lambda: check(*arguments, user=user()))
    return Check(passing.name, passing.look, is_needed=True)


def _look_at_metrics(config: DrvaConfig, address: Address) -> Finding:
    if is_running(config.runtime_dir):
        return good(f"{address}, which the DRVA that runs has, or reports as an alarm")
    why = why_not_served(address)
    return doubtful(why, "free the port, or change metrics; all else runs without it") if why else good(str(address))
