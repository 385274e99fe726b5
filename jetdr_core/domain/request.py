"""DomainRequest: what a caller asked for, checked once, before anything is opened."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Generic
from uuid import UUID

from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.known_file import KnownFile
from jetdr_core.domain.mode import D, Look
from jetdr_core.domain.primary import DiskPlaces
from jetdr_core.domain_key import DomainKey, KeyFile
from jetdr_core.errors import LogTooSmall
from jetdr_core.identity import check_name, host_owner
from jetdr_core.limits import SECTION_BYTES_MIN
from jetdr_core.options import DomainOptions
from jetdr_core.store import ObjectStore

__all__ = ["DomainRequest", "DomainSettings", "LogPlace", "Way"]

logger = logging.getLogger(__name__)

LogPlace = str | PathLike[str] | BlockDevice


class Way(enum.Enum):
    """The three ways in."""

    CREATE = "a new domain, with an empty container and a new section of the log volume"
    REOPEN = "a known domain with its own log, which goes on where the log ends"
    TAKE_OVER = "a known domain with a new log: the old one is given up, and with it what it had not uploaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSettings:
    """What all three ways in need. ``log`` and ``store`` may be open objects, which stay the caller's to close."""

    log: LogPlace
    store: str | ObjectStore
    options: DomainOptions
    owner: UUID
    key_file: KeyFile | None = None

    @classmethod
    def of(
        cls,
        log: LogPlace,
        store: str | ObjectStore,
        options: DomainOptions | None,
        owner: UUID | None,
        key_file: str | PathLike[str] | None = None,
    ) -> DomainSettings:
        """Return settings in which None stands for the default options, for this machine as the owner, for no key."""
        return cls(
            log=log,
            store=store,
            options=options or DomainOptions(),
            owner=owner or host_owner(),
            key_file=None if key_file is None else KeyFile(Path(key_file)),
        )

    def read_key(self) -> DomainKey | None:
        """Read the domain's key, if the domain has one."""
        return None if self.key_file is None else self.key_file.read()

    def bind_key(self, domain_uuid: UUID) -> None:
        """Write into the key file which domain it is for. A file that cannot be written stays as it is."""
        if self.key_file is None:
            return
        try:
            self.key_file.bind(domain_uuid)
        except OSError as error:
            logger.warning("%s was not bound to domain %s: %s", self.key_file.path, domain_uuid, error)


@dataclass(frozen=True, slots=True)
class DomainRequest(Generic[D]):
    """What the caller asked for.

    ``look`` is the choice of the mode. ``log_bytes`` is the size of a new log. ``give_up_from`` is the number of the
    chain's break: what the store holds from there on is given up. ``discard_log`` names a log that may be given up with
    all that it holds. ``places`` says where the disks are. ``known_file`` is kept, so that the domain can be reopened
    while its store is away. ``spares_log`` tells whether the disks need nothing that only the log of a domain and a
    generation has.
    """

    way: Way
    name: str
    settings: DomainSettings
    look: Look[D]
    log_bytes: int | None = None
    give_up_from: int | None = None
    discard_log: str | None = None
    places: DiskPlaces = field(default_factory=DiskPlaces)
    known_file: KnownFile | None = None
    spares_log: Callable[[UUID, Iterable[Generation]], bool] = lambda _uuid, _generations: False

    def __post_init__(self) -> None:
        check_name("domain", self.name)
        if self.log_bytes is not None and self.log_bytes < SECTION_BYTES_MIN:
            raise LogTooSmall(
                f"a log of {self.log_bytes} bytes is too small", hint=f"use at least {SECTION_BYTES_MIN} bytes"
            )
