"""MetricsListener: serves the metrics as soon as their address is free.

Invariant: metrics never keep a domain from being protected. An address that is taken is an alarm, and is tried again.
"""

from __future__ import annotations

import logging
import socket

from prometheus_client.registry import Collector

from jetdr_core.drva.alarms import Alarm
from jetdr_core.drva.config import Address
from jetdr_core.drva.metrics import MetricsServer
from jetdr_core.file_making import remedy_of

__all__ = ["MetricsListener", "why_not_listened", "why_not_served"]

log = logging.getLogger(__name__)


def why_not_served(address: Address) -> str:
    """Why metrics could not be served at the address now. Empty if they could."""
    return why_not_listened("metrics", address)


def why_not_listened(what: str, address: Address) -> str:
    """Why ``what`` could not listen at the address now. Empty if it could. Nobody is kept from listening meanwhile."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(tuple(address))
    except OSError as error:
        return _refused(what, address, error)
    return ""


def _refused(what: str, address: Address, error: OSError) -> str:
    return f"{what} = {str(address)!r}: {error.strerror or error}; {remedy_of(error.errno)}"


class MetricsListener:
    """Without an ``address`` it does nothing. ``server`` is None until it listens."""

    def __init__(self, address: Address | None, collector: Collector) -> None:
        self.server: MetricsServer | None = None
        self._address = address
        self._collector = collector
        self._failure = ""

    def listen(self) -> None:
        """Listen, unless that was done. If the address is taken or unusable, that is an alarm until a later call."""
        if self._address is None or self.server is not None:
            return
        try:
            self.server = MetricsServer(self._address, self._collector)
        except OSError as error:
            failure = _refused("metrics", self._address, error)
            if failure != self._failure:
                log.warning("metrics are not served: %s", failure)
            self._failure = failure
            return
        if self._failure:
            log.info("metrics are served at http://%s/metrics", self.server.address)
        self._failure = ""

    def alarms(self) -> list[Alarm]:
        return [Alarm("metrics_away", self._failure)] if self._failure else []

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
