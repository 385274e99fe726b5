"""HostOptions: the settings of a domain's host component, checked once, when they are made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import STALL_LIMIT_S_DEFAULT

__all__ = ["HostOptions", "StartDisk"]

_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})\Z")
STALL_LIMIT_S_MAX = 100.0
"""A hypervisor gives up a disk that does not answer for 120 s."""


@dataclass(frozen=True, slots=True)
class StartDisk:
    """A disk that the host component serves from its start. ``path`` is absolute."""

    number: int
    name: str
    size_bytes: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """Settings of a host component. Times are seconds."""

    runtime: str = "/run/jetdr"
    """The folder, on tmpfs, of what need not survive a restart of the machine. Each domain has a folder in it."""
    state: str = "/var/lib/jetdr"
    """The folder, on a disk, of what must survive a power loss. With write-back each domain has a folder in it."""
    listen: str = ""
    """Where guests connect: the absolute path of a Unix socket, or HOST:PORT. By default ``nbd.sock`` in its folder."""
    nbdkit: str = "nbdkit"
    """The nbdkit program."""
    arguments: tuple[str, ...] = ()
    """Further arguments for nbdkit, for example for TLS."""
    stall_limit_s: float = STALL_LIMIT_S_DEFAULT
    """The longest that a guest's write or flush waits for replication. Then logging goes off."""
    write_back: bool = False
    """A write completes when its record is in the ring, a flush when the log has it. The primary is written later."""
    start_limit_s: float = 10.0
    """How long a host component may take to answer after its start. Then it has failed."""
    stop_limit_s: float = 30.0
    """How long a host component may take to end after it was asked to. Then it is killed."""

    def __post_init__(self) -> None:
        for name in ("runtime", "state"):
            if not Path(getattr(self, name)).is_absolute():
                raise InvalidRequest(f"option {name}={getattr(self, name)!r} is not valid", hint="use an absolute path")
        if self.listen and not self.listen.startswith("/") and self.tcp_address is None:
            raise InvalidRequest(
                f"option listen={self.listen!r} is not valid", hint="use the absolute path of a socket, or HOST:PORT"
            )
        for name, high in (
            ("stall_limit_s", STALL_LIMIT_S_MAX),
            ("start_limit_s", 3600.0),
            ("stop_limit_s", 3600.0),
        ):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise InvalidRequest(f"option {name}={value!r} is not valid", hint=f"use 0 to {high:g}")

    @property
    def tcp_address(self) -> tuple[str, int] | None:
        """The host and port of :attr:`listen`, or None if that is a Unix socket."""
        match = _HOST_AND_PORT.match(self.listen)
        if match is None or not 0 < int(match["port"]) < 1 << 16:
            return None
        return match["host"].strip("[]"), int(match["port"])
