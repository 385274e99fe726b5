"""Ports for peers to listen on."""

from __future__ import annotations

import random
import socket

_CHANCE = random.SystemRandom()
"""Its own in each process, whatever tests seed."""


def free_port() -> int:
    """One of the loopback address that nobody has, and that the kernel gives no connection of anybody's (32768 on)."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", _CHANCE.randrange(10_000, 32_768)))
            except OSError:
                continue
            return int(probe.getsockname()[1])
