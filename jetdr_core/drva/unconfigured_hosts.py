"""UnconfiguredHosts: host components below ``runtime_dir`` whose domains the configuration does not name.

A domain that is taken out of the configuration leaves its host component running. It serves its guests on, and nothing
protects them any more. So somebody looks at what runs, and not only at what is configured.

Invariants: looking changes nothing. Nothing ends a host component but an operator's command, or ``hosts_on_stop``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from jetdr_core.drva.alarms import Alarm
from jetdr_core.errors import HostUnreachable, InvalidRequest, JetdrError
from jetdr_core.host import HostComponent, HostOptions
from jetdr_core.identity import is_name

__all__ = ["UnconfiguredHost", "UnconfiguredHosts"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnconfiguredHost:
    """``pid`` is 0 if the process takes no connection."""

    domain: str
    pid: int

    def __str__(self) -> str:
        process = f"process {self.pid}" if self.pid else "a process that takes no connection"
        return f"the host component of domain {self.domain!r} ({process})"


class UnconfiguredHosts:
    """``found`` is what the last :meth:`look` found. ``configured`` are the names of the configured domains."""

    def __init__(self, runtime_dir: Path, configured: Collection[str]) -> None:
        self.found: tuple[UnconfiguredHost, ...] = ()
        self.configured = configured
        self._runtime_dir = runtime_dir

    def look(self) -> None:
        """Look which host components run, and log what has changed. Blocks, for a moment for each of them."""
        found = self.running()
        for host in set(found) - set(self.found):
            log.warning("%s runs, but the configuration has no such domain: its guests are not protected", host)
        for host in set(self.found) - set(found):
            log.info("%s has ended", host)
        self.found = found

    def running(self) -> tuple[UnconfiguredHost, ...]:
        """Return those that run now. Blocks, for a moment for each of them."""
        return tuple(filter(None, map(self._look_at, self._names())))

    def alarms(self) -> list[Alarm]:
        return [
            Alarm(
                "host_not_configured",
                f"{host} runs, but the configuration has no such domain: its guests are not protected; configure the "
                f"domain again, or move its guests away and end it with 'jetdr stop-host {host.domain}'",
            )
            for host in self.found
        ]

    def stop(self, domain: str) -> UnconfiguredHost:
        """End the host component of a domain that is not configured. Blocks until it has ended."""
        if domain in self.configured:
            raise InvalidRequest(
                f"domain {domain!r} is configured, and its host component serves its guests",
                hint="take it out of the configuration first; hosts_on_stop = 'stop' ends it with the DRVA",
            )
        host = self._look_at(domain) if is_name(domain) else None
        if host is None:
            running = ", ".join(other.domain for other in self.found) or "none"
            raise InvalidRequest(
                f"no host component of a domain {domain!r} runs in {self._runtime_dir}",
                hint=f"those that are not configured: {running}",
            )
        self._component(domain).stop()
        self.look()
        return host

    def stop_all(self) -> None:
        """End all that were found. What does not end is logged."""
        for host in self.found:
            try:
                self._component(host.domain).stop()
                log.info("%s has ended, as hosts_on_stop = 'stop' says", host)
            except (JetdrError, OSError) as error:
                log.warning("%s has not ended: %s", host, error)

    def _names(self) -> list[str]:
        try:
            folders = [place.name for place in self._runtime_dir.iterdir() if (place / "host.sock").is_socket()]
        except OSError as error:
            log.warning("%s cannot be listed: %s", self._runtime_dir, error.strerror or error)
            return []
        return sorted(name for name in folders if is_name(name) and name not in self.configured)

    def _look_at(self, name: str) -> UnconfiguredHost | None:
        component = self._component(name)
        try:
            if component.running():
                return UnconfiguredHost(name, component.pid)
        except HostUnreachable:
            return UnconfiguredHost(name, 0) if component.running() else None
        return None

    def _component(self, name: str) -> HostComponent:
        return HostComponent(name, HostOptions(runtime=str(self._runtime_dir)))
