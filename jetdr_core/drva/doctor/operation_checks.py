"""Checks of what runs now: the DRVA, its alarms, and host components, those that nobody configured included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from jetdr_core import __version__
from jetdr_core.drva.client import ControlClient
from jetdr_core.drva.config import Address, DomainConfig, DrvaConfig
from jetdr_core.drva.doctor.account import is_new
from jetdr_core.drva.doctor.causes import checks_that_explain, grouped
from jetdr_core.drva.doctor.finding import Check, Finding, NotKnown, doubtful, good, several, unchecked, wrong
from jetdr_core.drva.doctor.in_use import is_running
from jetdr_core.drva.metrics_listener import why_not_listened
from jetdr_core.drva.unconfigured_hosts import UnconfiguredHosts
from jetdr_core.errors import HostDeaf, HostGone, JetdrError
from jetdr_core.host import HostComponent

__all__ = ["operation_checks"]

_ANSWER_S = 5.0
_OTHERS = "hosts not configured"
_TABLE = "see the table 'From symptom to command' in docs/operations.md"


def operation_checks(config: DrvaConfig) -> Iterator[Check]:
    yield Check("drva", partial(_look_at_drva, config))
    yield Check(_OTHERS, partial(_look_at_others, config))
    yield Check("drva: alarms", partial(_look_at_own_alarms, config), needs=("drva",))
    for domain in config.domains:
        yield Check(f"domain {domain.name}: host component", partial(_look_at_host, config, domain))
        yield Check(f"domain {domain.name}: alarms", partial(_look_at_alarms, config, domain), needs=("drva",))


def _look_at_drva(config: DrvaConfig) -> Finding:
    if not is_running(config.runtime_dir):
        return _no_drva(config)
    about = _status(config)["drva"]
    told = f"process {about['pid']}, version {about['version']}, since {about['started']}"
    if about["version"] != __version__:
        return doubtful(f"{told}; version {__version__} is installed", "systemctl restart jetdr-drva")
    return good(told)


def _no_drva(config: DrvaConfig) -> Finding:
    """Whether somebody misses the DRVA: guests that are served, or domains that were open here."""
    start = f"systemctl start jetdr-drva (without systemd: jetdr drva {config.file})"
    served = [domain.name for domain in config.domains if HostComponent(domain.name, domain.host).running()]
    if served:
        return wrong(
            f"no DRVA runs in {config.runtime_dir}, and the guests of {', '.join(served)} go on unprotected", start
        )
    if all(is_new(domain) for domain in config.domains):
        return good(f"no DRVA runs in {config.runtime_dir}, and none has")
    return doubtful(f"no DRVA runs in {config.runtime_dir}, so no guest has its disks", start)


def _look_at_own_alarms(config: DrvaConfig) -> Finding:
    """The alarms of the DRVA itself."""
    if not is_running(config.runtime_dir):
        return good("no DRVA runs")
    found = grouped(_named(_answer(config)["drva"]["alarms"]))
    where = {"host_not_configured": (_OTHERS,)}
    return several([replace(wrong(str(one), _TABLE), after=where.get(one.name, ())) for one in found] or [good("none")])


def _look_at_alarms(config: DrvaConfig, domain: DomainConfig) -> Finding:
    if not is_running(config.runtime_dir):
        return good("no DRVA runs")
    known = [one for one in _answer(config)["domains"] if one["name"] == domain.name]
    if not known:
        told = f"the DRVA that runs has no domain {domain.name!r}"
        return wrong(told, "restart it: systemctl restart jetdr-drva")
    alarms = [
        replace(wrong(str(one), _TABLE), after=checks_that_explain(one.name, one.text, domain))
        for one in grouped(_named(known[0]["alarms"]))
    ]
    return several(alarms or [good("none")])


def _named(alarms: Any) -> list[tuple[str, str]]:
    return [(alarm["name"], alarm["text"]) for alarm in alarms]


def _look_at_host(config: DrvaConfig, domain: DomainConfig) -> Finding:
    component = HostComponent(domain.name, domain.host)
    try:
        pid = component.pid
        component.control.hello()
    except HostDeaf as error:
        return wrong(error.message, f"look at {component.log_path}, and at the disks of the domain")
    except HostGone:
        return _no_host(config, domain)
    finally:
        component.control.close()
    return good(f"process {pid} serves guests")


def _no_host(config: DrvaConfig, domain: DomainConfig) -> Finding:
    address = domain.host.tcp_address
    if address is not None and (why := why_not_listened(f"domain {domain.name}: listen", Address(*address))):
        return wrong(why, "free the address, or change listen")
    if is_running(config.runtime_dir):
        return unchecked("none runs", "the DRVA starts one: see its alarms")
    return good("none runs, and the DRVA starts one")


def _look_at_others(config: DrvaConfig) -> Finding:
    if not config.runtime_dir.exists() or not os.listdir(config.runtime_dir):
        return good("none")
    others = UnconfiguredHosts(config.runtime_dir, {domain.name for domain in config.domains}).running()
    if others:
        names = ", ".join(host.domain for host in others)
        return wrong(
            "; ".join(f"{host} serves guests whom nothing protects" for host in others),
            f"configure {names} again, or move the guests away and jetdr stop-host DOMAIN",
        )
    return good("none")


def _answer(config: DrvaConfig) -> Any:
    """The status. A DRVA that does not answer is a finding of its own, and not of each check that asks it."""
    try:
        return _status(config)
    except (JetdrError, OSError) as error:
        raise NotKnown(f"the DRVA does not answer: {error}") from error


def _status(config: DrvaConfig) -> Any:
    with ControlClient(config.control_socket, answer_s=_ANSWER_S) as client:
        return client.ask("status")
