"""Primary: the disk that the guest writes to, opened and checked.

The store says where each disk lay when it was protected. Whoever may write to the store could name any file there, so
that is a hint for people. Where a disk lies is said by the caller, or by the domain's own log: it has a digest of the
places that were last in use, and a caller who names none gets the stored ones if the digest confirms them.

Invariant: a primary has the size that its domain's history says, and its path is absolute.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from os import PathLike, fspath
from pathlib import Path

from jetdr_core.catalog import DiskState
from jetdr_core.device import AbsentDevice, FileDevice, identity_of
from jetdr_core.device.place import exists
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.disk_fault import DiskFault
from jetdr_core.domain.generation import UNKNOWN_ID
from jetdr_core.durable import new_file, sync_folder
from jetdr_core.errors import InvalidRequest, JetdrError, PrimaryAway, PrimaryMissing
from jetdr_core.file_making import Asked, making, trying
from jetdr_core.limits import DISK_BYTES_MAX, SECTOR_BYTES
from jetdr_core.patience import PLACE_LIMIT_S, each_within
from jetdr_core.replication_log import ReplicationLog
from jetdr_core.resync import Region, regions_of

__all__ = [
    "DiskPlace",
    "DiskPlaces",
    "Primaries",
    "Primary",
    "are_confirmed",
    "check_disk_bytes",
    "close_late",
    "open_primary",
    "places_digest",
    "shrunk",
]

HANGS = "see what its file system or device waits for; it is opened once that answers"

DiskPlace = str | PathLike[str] | BlockDevice


@dataclass(frozen=True, slots=True)
class Primary:
    """An open primary. ``path`` is empty for a device that the caller opened, which stays the caller's to close.

    ``fault`` says why it is not open after all. Its device then is an :class:`AbsentDevice`.
    """

    device: BlockDevice
    path: str
    fault: DiskFault | None = None

    def regions(self, size_bytes: int | None = None) -> Iterator[Region]:
        """All of the disk, or its first ``size_bytes``, data and holes in order."""
        size = self.device.size_bytes if size_bytes is None else size_bytes
        return regions_of(self.device.fileno(), size)

    def size_now(self) -> int:
        """Return the bytes that the file or device has now, in whole sectors. Other than at opening, it may differ."""
        found = self.device.look_at_size() if isinstance(self.device, FileDevice) else self.device.size_bytes
        return found - found % SECTOR_BYTES

    def leads_to(self, path: str) -> bool:
        """Whether ``path`` is a name of the very file or device that is open here."""
        try:
            return identity_of(os.stat(path)) == identity_of(os.fstat(self.device.fileno()))
        except (JetdrError, OSError, ValueError):
            return False

    def close(self) -> None:
        """Close what was opened here. Idempotent."""
        if self.path:
            self.device.close()


@dataclass(frozen=True, slots=True)
class DiskPlaces:
    """Where the disks of a domain are, by name, as its caller says.

    With ``trust_stored`` a disk that is not ``named`` is where the store says. Otherwise it is not opened, unless
    ``ask_log`` and the log confirms all that the store says. Disks that are ``given_up`` are not waited for.
    """

    named: Mapping[str, DiskPlace] = field(default_factory=dict)
    trust_stored: bool = False
    ask_log: bool = False
    given_up: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, disks: Mapping[str, DiskPlace] | None, *, trust_stored: bool, given_up: Iterable[str] = ()
    ) -> DiskPlaces:
        """Return the places that a caller gives, who may give none."""
        return cls(disks or {}, trust_stored, ask_log=disks is None, given_up=frozenset(given_up))


class Primaries:
    """The primaries of the disks that a domain has when it is opened, by disk number.

    ``shared``: another process writes to them. A disk whose primary cannot be opened, or does not answer, is a failed
    disk of the domain: the other disks need it for nothing. If they ``must_open`` it is an error.
    """

    def __init__(self, domain: str, places: DiskPlaces, *, shared: bool, must_open: bool = False) -> None:
        self.opened: dict[int, Primary] = {}
        self._domain = domain
        self._places = places
        self._shared = shared
        self._must_open = must_open
        self._trusted = places.trust_stored

    def open_all(self, disks: Sequence[DiskState], *, confirmed: bool = False) -> None:
        """Open the primaries of ``disks``. Unless they are shared, a place of a disk that is not among them is refused.

        ``confirmed``: the domain's log says that the disks were last used where the store says.
        A host component's configuration names disks that are protected only once the domain is open.
        """
        unknown = self._places.named.keys() - {state.name for state in disks}
        if unknown and not self._shared:
            raise InvalidRequest(
                f"domain {self._domain!r} protects no disk {', '.join(map(repr, sorted(unknown)))}",
                hint=f"it protects {', '.join(state.name for state in disks) or 'none'}",
            )
        self._trusted |= self._places.ask_log and confirmed
        self._open_new(disks)

    def of(self, state: DiskState) -> Primary:
        """Return the primary of that disk, opened now if the disk was not known before."""
        self._open_new([state])
        return self.opened[state.disk]

    def _open_new(self, disks: Sequence[DiskState]) -> None:
        """Open those that are not open, all at once, and wait a limited time: the file system of one may hang."""
        new = [state for state in disks if state.disk not in self.opened]
        opening = list(zip(new, each_within(PLACE_LIMIT_S, self._open, new), strict=True))
        for state, one in opening:
            if not one.done():
                one.add_done_callback(close_late)
                self.opened[state.disk] = self._hanging(state)
            elif one.exception() is None:
                self.opened[state.disk] = one.result()
        for state, one in opening:
            if state.disk not in self.opened:
                one.result()  # raises what the caller is to mend
            if self._must_open and not one.done():
                raise PrimaryAway(f"disk {state.name!r}: {self.opened[state.disk].path} does not answer", hint=HANGS)

    def _hanging(self, state: DiskState) -> Primary:
        place = self._places.named.get(state.name, state.path)
        error = PrimaryAway(f"it has not answered for {PLACE_LIMIT_S:g} s", hint=HANGS)
        return absent_primary(state, fspath(place) if isinstance(place, str | PathLike) else "", DiskFault.of(error))

    def needed(self, disks: Sequence[DiskState]) -> list[DiskState]:
        """Return those of ``disks`` that are absent and not given up."""
        return [state for state in self.absent(disks) if state.name not in self._places.given_up]

    def absent(self, disks: Sequence[DiskState]) -> list[DiskState]:
        """Return those of ``disks`` whose primaries are not open."""
        return [state for state in disks if self.of(state).fault is not None]

    def present_paths(self, disks: Sequence[DiskState]) -> list[str]:
        """Return the paths of the primaries that are open, by ascending number."""
        return [path for state, path in self.placed(disks) if self.of(state).fault is None]

    def placed(self, disks: Sequence[DiskState]) -> list[tuple[DiskState, str]]:
        """Return ``disks`` by ascending number, each with the path of its primary. The path of an open device is ''."""
        return [(state, self.of(state).path) for state in sorted(disks)]

    def answering(self, disks: Sequence[DiskState]) -> list[tuple[DiskState, str]]:
        """Like :meth:`placed`, without the paths of primaries that are not open, because those may hang."""
        return [(state, "" if self.of(state).fault else path) for state, path in self.placed(disks)]

    def close(self) -> None:
        """Close what was opened here. Idempotent."""
        for primary in self.opened.values():
            primary.close()

    def _open(self, state: DiskState) -> Primary:
        name, place = state.name, self._places.named.get(state.name)
        if place is None and self._trusted:
            place = state.path
        if place is None and self._shared:
            return absent_primary(state, "", DiskFault.unnamed(state.path))
        if place is None:
            raise InvalidRequest(
                f"domain {self._domain!r}: nobody says where disk {name!r} is",
                hint=f"pass disks={{{name!r}: its path or device}}. The store says {state.path or 'an open device'!r}: "
                "trust_stored_paths=True believes that of every disk, and whoever may write to the store with it",
            )
        try:
            return open_primary(name, place, size_bytes=state.size_bytes, shared=self._shared, is_known=True)
        except (JetdrError, OSError) as error:
            if self._must_open or not isinstance(place, str | PathLike):
                raise
            return absent_primary(state, fspath(place), DiskFault.of(error))


def places_digest(placed: Iterable[tuple[int, str]]) -> bytes:
    """Return a digest of the disks' numbers and paths, which nobody can meet with another path."""
    text = "\0".join(f"{number}\0{path}" for number, path in sorted(placed))
    return sha256(text.encode(errors="surrogateescape")).digest()[:16]


def are_confirmed(log: ReplicationLog, disks: Iterable[DiskState]) -> bool:
    """Whether the disks were last used where the store says. A log of version 1 noted nothing, and is believed once."""
    is_silent = log.body.epoch > 0 and log.body.nonce == log.body.places == UNKNOWN_ID
    return is_silent or log.body.places == places_digest((disk.disk, disk.path) for disk in disks)


def close_late(opening: Future[Primary]) -> None:
    """Close a primary that was opened only after everybody had given it up."""
    with suppress(Exception):
        opening.result().close()


def absent_primary(state: DiskState, path: str, fault: DiskFault) -> Primary:
    """Return what stands for the primary of a disk that is not open."""
    place = str(Path(path).absolute()) if path else ""
    return Primary(AbsentDevice(state.size_bytes, f"disk {state.name!r}: {fault.reason}"), place, fault)


def open_primary(
    name: str,
    place: DiskPlace,
    *,
    size_bytes: int | None,
    create: bool = False,
    shared: bool = False,
    is_known: bool = False,
) -> Primary:
    """Open disk ``name`` at ``place``, which must have ``size_bytes`` if that is given, or more if it ``is_known``.

    With ``create`` a file that does not exist is created, with that size and all zeros. An empty path stands for a
    device that only its caller knows, so it cannot be opened. ``shared``: another process writes to the primary, and
    this one only reads it.
    """
    if not isinstance(place, str | PathLike):
        _check_shareable(name, shared=shared)
        return _checked(name, Primary(place, ""), size_bytes, is_known=is_known)
    if not fspath(place):
        raise InvalidRequest(f"disk {name!r} was protected as an open device", hint=f"pass disks={{{name!r}: device}}")
    path = Path(fspath(place)).absolute()
    if create and size_bytes is not None and not exists(path):
        check_disk_bytes(name, size_bytes)
        _create_sparse(path, size_bytes)
    if not exists(path):
        raise PrimaryMissing(
            f"disk {name!r}: there is no {path}",
            hint="name an existing file, or give a size (--size) to make it",
            errno=errno.ENOENT,
            path=str(path),
        )
    primary = Primary(FileDevice(path, direct=False, writable=not shared, lock=not shared), str(path))
    try:
        _checked(name, primary, size_bytes, is_known=is_known)
        _check_answers(name, primary)
        return primary
    except BaseException:
        primary.close()
        raise


def _check_shareable(name: str, *, shared: bool) -> None:
    if shared:
        raise InvalidRequest(
            f"disk {name!r} is an open device of this process, which the host component cannot reach",
            hint="pass the path of a file or block device",
        )


def _checked(name: str, primary: Primary, size_bytes: int | None, *, is_known: bool) -> Primary:
    found = _true_size(primary)
    if is_known and size_bytes is not None and found > size_bytes:
        return primary  # it has grown
    if size_bytes is not None and size_bytes != found:
        raise (
            shrunk(name, primary.path, found, size_bytes)
            if is_known
            else InvalidRequest(
                f"disk {name!r} ({primary.path or 'an open device'}) has {found} bytes, expected {size_bytes}",
                hint="give no size, or name the right file",
            )
        )
    check_disk_bytes(name, found)
    return primary


def shrunk(name: str, path: str, found: int, size_bytes: int) -> InvalidRequest:
    """Return the error that a disk is smaller than its history says."""
    return InvalidRequest(
        f"disk {name!r} ({path or 'an open device'}) has {found} bytes, expected {size_bytes}: it has shrunk, or is "
        "another disk",
        hint="name the right file, or give it back its size. What was cut off is in the store. If it "
        "is to be smaller, stop protecting it, and protect it anew",
        size_bytes=size_bytes,
        found_bytes=found,
    )


def _check_answers(name: str, primary: Primary) -> None:
    """Read a sector past the page cache, because a device that fails or hangs can be opened all the same."""
    fd = primary.device.fileno()
    try:
        os.posix_fadvise(fd, 0, SECTOR_BYTES, os.POSIX_FADV_DONTNEED)
        os.pread(fd, SECTOR_BYTES, 0)
    except OSError as error:
        raise PrimaryAway(
            f"disk {name!r}: reading {primary.path} failed: {os.strerror(error.errno or 0)}",
            hint="see the kernel's log, and mend or replace the device",
        ) from error


def _true_size(primary: Primary) -> int:
    """A device counts whole blocks only, but a file may end within one."""
    if primary.path:
        with trying(primary.path, "looking at its size"):
            if Path(primary.path).is_file():
                return Path(primary.path).stat().st_size
    return primary.device.size_bytes


def check_disk_bytes(name: str, size_bytes: int) -> None:
    """Refuse a size that no disk has."""
    if not 0 < size_bytes <= DISK_BYTES_MAX or size_bytes % SECTOR_BYTES:
        raise InvalidRequest(
            f"disk {name!r} of {size_bytes} bytes is not valid",
            hint=f"use a multiple of {SECTOR_BYTES}, at most {DISK_BYTES_MAX}",
        )


def _create_sparse(path: Path, size_bytes: int) -> None:
    """Create a file of zeros that takes no space yet. Content and name are durable at return."""
    with making(path, f"making a disk of {size_bytes} bytes", Asked.SIZE | Asked.PLACE), new_file(path) as file:
        file.truncate(size_bytes)
        os.fsync(file.fileno())
        sync_folder(path.parent)
