"""What an ``iscsi://`` URL means, and the options of sessions with its LUN. Only this module reads iSCSI's variables.

Invariant: a password is never in a URL, a message or a ``repr``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jetdr_core.errors import InvalidRequest
from jetdr_core.file_making import read_regular_file
from jetdr_core.identity import host_owner
from jetdr_core.ownership import check_guarded

__all__ = ["PASSWORD_VARIABLE", "IscsiLun", "IscsiOptions", "IscsiUrl", "is_iscsi", "options_of"]

SCHEME = "iscsi://"
PASSWORD_VARIABLE = "JETDR_ISCSI_PASSWORD"
PORT_DEFAULT = 3260
LUN_MAX = 16383  # single-level addressing, SAM-5 4.7

_HINT = "use iscsi://[USER@]HOST[:PORT]/IQN/LUN"
_URL = re.compile(
    r"(?:(?P<user>[^@/:%]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::(?P<port>\d{1,5}))?"
    r"/(?P<target>[^/]+)/(?P<lun>\d{1,5})\Z"
)
_TARGET = re.compile(r"(?:iqn|eui|naa)\.[0-9A-Za-z.:_-]{1,219}\Z")
_PASSWORD_FILE_BYTES_MAX = 64 << 10
_PASSWORD_BYTES_MAX = 255


def is_iscsi(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is an iSCSI URL."""
    return os.fspath(path).startswith(SCHEME)


@dataclass(frozen=True, slots=True)
class IscsiUrl:
    """A LUN, by portal, target and number, and the user to log in as."""

    host: str
    port: int
    target: str
    lun: int
    user: str | None = None

    @classmethod
    def parse(cls, url: str) -> IscsiUrl:
        """The LUN that ``url`` names. :class:`InvalidRequest` if it names none, or carries a password."""
        rest = url.removeprefix(SCHEME)
        if rest == url or not url.isprintable() or not url.isascii():
            raise InvalidRequest("this is not an iSCSI URL", hint=_HINT)
        user, at, _ = rest.rpartition("@")
        if at and re.search(r"[:%]", user):
            raise InvalidRequest(
                "the iSCSI URL carries a password, which every process of this machine could read",
                hint="leave it out, and set JETDR_ISCSI_PASSWORD or JETDR_ISCSI_PASSWORD_FILE",
            )
        found = _URL.match(rest)
        if found is None or not _TARGET.match(found["target"]):
            raise InvalidRequest(f"{SCHEME}{rest.rpartition('@')[2]} does not name a LUN", hint=_HINT)
        port, lun = int(found["port"] or PORT_DEFAULT), int(found["lun"])
        if not 0 < port < 1 << 16 or lun > LUN_MAX:
            raise InvalidRequest(f"port {port} or LUN {lun} is out of range", hint=f"a LUN is 0 to {LUN_MAX}")
        return cls(found["host"].lower(), port, found["target"], lun, found["user"])

    @property
    def portal(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """Equal for two URLs that name the same LUN at the same portal."""
        return ("iscsi", self.portal, self.target, self.lun)

    def __str__(self) -> str:
        return f"{SCHEME}{self.portal}/{self.target}/{self.lun}"


@dataclass(frozen=True, slots=True)
class IscsiOptions:
    """How sessions with a LUN are made."""

    password: str | None = field(default=None, repr=False)
    initiator: str = ""
    """The name by which targets know this machine. By default it is derived from the machine's UUID."""
    limit_s: float = 30.0
    """How long a call may wait without any progress, while the connection is made again, before it fails."""
    login_limit_s: float = 5.0
    """How long one attempt to connect and log in may take."""
    machine: int = 0
    """The 32-bit number by which this machine reserves LUNs. By default it is derived from the machine's UUID."""

    def __post_init__(self) -> None:
        machine = host_owner()
        if not self.initiator:
            object.__setattr__(self, "initiator", f"iqn.2026-11.invalid.jetdr:{machine.hex}")
        if not self.machine:
            object.__setattr__(self, "machine", machine.int >> 96 or 1)
        if not _TARGET.match(self.initiator):
            raise InvalidRequest(
                f"initiator {self.initiator!r} is not an iSCSI name", hint="it begins with iqn., eui. or naa."
            )
        if not (0 < self.limit_s <= 3600 and 0 < self.login_limit_s <= 600 and 0 < self.machine < 1 << 32):
            raise InvalidRequest(
                "a limit or the machine's number is out of range", hint="limits are up to 3600 and 600 s"
            )
        if self.password is not None and not 0 < len(self.password.encode()) <= _PASSWORD_BYTES_MAX:
            raise InvalidRequest("the iSCSI password is empty or too long", hint="it has 1 to 255 bytes")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> IscsiOptions:
        """From JETDR_ISCSI_PASSWORD or JETDR_ISCSI_PASSWORD_FILE (mode 0600), JETDR_ISCSI_INITIATOR and _LIMIT_S."""
        password = environment.get(PASSWORD_VARIABLE)
        file = environment.get("JETDR_ISCSI_PASSWORD_FILE")
        if password is not None and file is not None:
            raise InvalidRequest(
                "JETDR_ISCSI_PASSWORD and JETDR_ISCSI_PASSWORD_FILE are both set", hint="set one of them"
            )
        return cls(
            password=password if file is None else _password_in(Path(file)),
            initiator=environment.get("JETDR_ISCSI_INITIATOR", ""),
            limit_s=_seconds(environment.get("JETDR_ISCSI_LIMIT_S", "30")),
        )


@dataclass(frozen=True, slots=True)
class IscsiLun(os.PathLike[str]):
    """A LUN with a password of its own, usable wherever a log's path is. Opening the LUN reads the password file."""

    url: str
    password_file: Path

    def __fspath__(self) -> str:
        return self.url


def options_of(place: str | os.PathLike[str]) -> IscsiOptions:
    """The environment's options, but with the password of ``place`` if it has one of its own."""
    environment = dict(os.environ)
    if isinstance(place, IscsiLun):
        environment.pop(PASSWORD_VARIABLE, None)
        environment["JETDR_ISCSI_PASSWORD_FILE"] = str(place.password_file)
    return IscsiOptions.from_environment(environment)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidRequest(f"JETDR_ISCSI_LIMIT_S={text!r} is not a number", hint="give seconds") from None


def _password_in(path: Path) -> str:
    """The file's first line. :class:`InvalidRequest` if others may read it, or could replace it."""
    check_guarded("password file", path)
    content = read_regular_file(path, _PASSWORD_FILE_BYTES_MAX, private=True)
    return content.decode("utf-8-sig", "replace").partition("\n")[0].rstrip("\r")
