"""Watch: the thread that sees to it that logging is on, and that the host component serves all disks. A second one
looks for disks that have failed, because it may hang with their file systems.

Invariants: no guest waits for anything here. Before a host component that died is restarted, logging is off, unless its
records hold all that it had acknowledged, as in write-back, or it ended in order. The restart needs no room in the log.
What fails is tried again, ever more slowly, and reported in :attr:`Watch.failure`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from jetdr_core._core import Ring
from jetdr_core.domain.copies import Copies
from jetdr_core.domain.hosting.bypass import Bypass
from jetdr_core.domain.hosting.served_disks import DiskServer
from jetdr_core.errors import JetdrError

__all__ = ["Watch"]

log_ = logging.getLogger(__name__)

POLL_S = 0.05
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 10.0
TRIM_S = 1.0
FAILED_DISKS_S = 2.0
"""How often a failed disk is looked for."""
SOCKET_S = 1.0
"""How often the sockets' names are looked at: a cleaner of /run may remove them."""


class Watch:
    """``trim`` moves the log's tail as far as the primaries have come."""

    def __init__(
        self,
        name: str,
        ring: Ring,
        server: DiskServer,
        bypass: Bypass,
        copies: Copies,
        *,
        trim: Callable[[], None],
    ) -> None:
        self.host_restarts = 0
        self._name = name
        self._ring = ring
        self._server = server
        self._bypass = bypass
        self._copies = copies
        self._trim = trim
        self._trimmed_s = self._socket_seen_s = 0.0
        self._failures: dict[str, str] = {}
        self._retry_s = RETRY_FIRST_S
        self._restart_at_s = 0.0
        self._closing = False
        self._round = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"jetdr-watch-{name}", daemon=True)
        self._disks_thread = threading.Thread(target=self._look_for_disks, name=f"jetdr-disks-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._disks_thread.start()

    def close(self) -> None:
        """From now on only trim the log, because the domain closes. That makes room in a full log."""
        with self._round:
            self._closing = True

    def stop(self) -> None:
        """End the thread. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def failure(self) -> str:
        """Why not all disks are served, or logging is not on again. Empty if neither is so."""
        return "; ".join(dict(self._failures).values())

    @property
    def is_quiet(self) -> bool:
        """Whether logging is on and all disks are served. Nothing that has happened so far then makes a copy owed."""
        return self._ring.logging and self._serves

    @property
    def _serves(self) -> bool:
        return self._server.is_complete and self._ring.host_alive

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            with self._round:
                if not self._closing:
                    self._look()
            if time.monotonic() - self._trimmed_s >= TRIM_S:
                self._trimmed_s = time.monotonic()
                self._try("log", self._trim)

    def _look_for_disks(self) -> None:
        """Look for failed disks, in a thread that may hang with the file system of one of them."""
        while not self._stopping.wait(FAILED_DISKS_S):
            if self._serves and not self._closing:
                self._try("failed disks", self._server.serve_failed)
                self._try("sizes of disks", self._server.look_at_sizes)

    def _look(self) -> None:
        if not self._serves and time.monotonic() >= self._restart_at_s:
            self._try("host component", self._restart_host)
        elif self._serves and time.monotonic() - self._socket_seen_s >= SOCKET_S:
            self._socket_seen_s = time.monotonic()
            self._try("socket", self._server.check_guest_socket)
        self._try("logging", self._bypass.look)
        if self._ring.logging and self._ring.host_alive:
            self._try("copies", lambda: self._copies.resume_interrupted(self._server.serves))

    def _restart_host(self) -> None:
        ring = self._ring
        self._restart_at_s = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
        if not ring.host_alive and not self._server.host_ended and not ring.write_back and ring.logging:
            self._bypass.begin("the host component died")
        if self._server.begin():
            self.host_restarts += 1
            log_.warning("domain %s: its host component was restarted", self._name)
        self._server.owe_differing(self._copies.owe_failed)
        self._retry_s = RETRY_FIRST_S

    def _try(self, what: str, part: Callable[[], None]) -> None:
        """Take one part of the round. A part that fails is taken again in the next round."""
        try:
            part()
            self._failures.pop(what, None)
        except Exception as error:  # it is reported, and the watch must not end
            if self._failures.get(what) != str(error):
                log_.error(
                    "domain %s: %s: %s", self._name, what, error, exc_info=not isinstance(error, JetdrError | OSError)
                )
            self._failures[what] = str(error)
