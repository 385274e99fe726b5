"""Notifier: tells systemd how the service stands. A protocol of datagrams: sd_notify(3).

Invariant: without systemd it says nothing, and no child process inherits the way to it. Talks to: the kernel.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

__all__ = ["Notifier"]


class Notifier:
    """Takes what systemd left in ``environ`` out of it. ``watchdog_s``: how often to say so, None for not at all."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        path = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        period_us, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        mine = process in {"", str(os.getpid())}
        self.watchdog_s = int(period_us) / 2e6 if self._address and mine and period_us.isdigit() else None

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        self._tell("STOPPING=1\nSTATUS=uploading what is left")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(message.encode(), self._address)
