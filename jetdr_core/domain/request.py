"""DomainRequest: what a caller asked for, checked once, before anything is opened."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from uuid import UUID

from jetdr_core._core import ManualClock
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.primary import DiskPlace
from jetdr_core.errors import InvalidRequest, LogTooSmall
from jetdr_core.host import HostComponent, HostOptions
from jetdr_core.identity import check_name
from jetdr_core.limits import SECTION_BYTES_MIN
from jetdr_core.options import DomainOptions
from jetdr_core.store import ObjectStore

__all__ = ["DomainRequest", "LogPlace", "Way"]

LogPlace = str | PathLike[str] | BlockDevice


class Way(enum.Enum):
    """The three ways in."""

    CREATE = "a new domain: an empty container, a new section of the log volume"
    REOPEN = "a known domain with its own log: goes on where the log ends"
    TAKE_OVER = "a known domain with a new log: its old one is given up, and with it what it had not uploaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRequest:
    """What the caller asked for. ``log`` and ``store`` may be open objects, which stay the caller's to close."""

    way: Way
    name: str
    log: LogPlace
    log_bytes: int | None
    store: str | ObjectStore
    places: Mapping[str, DiskPlace]
    owner: UUID
    options: DomainOptions
    clock: ManualClock | None
    host: HostOptions | None

    def __post_init__(self) -> None:
        check_name("domain", self.name)
        if self.host is not None and self.clock is not None:
            raise InvalidRequest(
                f"domain {self.name!r} has a host component, which keeps its own time", hint="pass no clock"
            )
        if self.host is not None:
            HostComponent(self.name, self.host)  # refuses paths that are too long
        if self.log_bytes is not None and self.log_bytes < SECTION_BYTES_MIN:
            raise LogTooSmall(
                f"a log of {self.log_bytes} bytes is too small", hint=f"use at least {SECTION_BYTES_MIN} bytes"
            )
