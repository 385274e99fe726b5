"""Notifier: tells systemd how the service stands. A protocol of datagrams: sd_notify(3).

Invariants: without systemd it says nothing, and no child process inherits the way to it; it neither waits nor raises
when systemd does not listen: what was not said is said with the next word.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

__all__ = ["Notifier"]

log = logging.getLogger(__name__)


class Notifier:
    """Takes what systemd left in ``environ`` out of it. ``watchdog_s``: how often to say so, None for not at all."""

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
            if error.errno not in self._failures:  # each kind once, not with every beat
                log.warning("systemd does not listen: %s", error.strerror or error)
            self._failures.add(error.errno)
        else:
            self._unsaid = ""
