"""Notifier: reports the state of the service to systemd, in datagrams: sd_notify(3).

Invariants: without systemd it does nothing. No child process inherits the socket's address. If systemd does not listen,
it neither waits nor raises, and sends the unsent state with the next message.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

__all__ = ["Notifier"]

log = logging.getLogger(__name__)


class Notifier:
    """Removes systemd's variables from ``environ``. ``watchdog_s``: how often to call :meth:`alive`, None for never."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        path = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        period_us, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self._unsaid = ""
        self._failures: set[int | None] = set()
        mine = process in {"", str(os.getpid())}
        self.watchdog_s = int(period_us) / 2e6 if self._address and mine and period_us.isdigit() else None

    def ready(self, status: str) -> None:
        self._unsaid = f"READY=1\nSTATUS={status}"
        self._tell()

    def stopping(self) -> None:
        self._unsaid = "STOPPING=1\nSTATUS=uploading what is left"
        self._tell()

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def _tell(self, *words: str) -> None:
        if not self._address:
            return
        message = "\n".join([self._unsaid, *words] if self._unsaid else words)
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            if error.errno not in self._failures:  # each kind once, not with every message
                log.warning("systemd does not listen: %s", error.strerror or error)
            self._failures.add(error.errno)
        else:
            self._unsaid = ""
