"""Finds ports for peers to listen on."""

from __future__ import annotations

import random
import socket

_CHANCE = random.SystemRandom()
"""Random in each process, whatever tests seed."""


def free_port() -> int:
    """Return a free port of the loopback address, below 32768: the kernel gives the ports above to connections."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", _CHANCE.randrange(10_000, 32_768)))
            except OSError:
                continue
            return int(probe.getsockname()[1])
