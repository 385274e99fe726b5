"""A place is where a device is: a path or an ``iscsi://`` URL. Opening a place opens the device there."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Protocol

from jetdr_core.device.file import FileDevice, identity_of
from jetdr_core.device.iscsi import IscsiDevice
from jetdr_core.device.iscsi_url import IscsiUrl, is_iscsi, options_of
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.file_making import trying

__all__ = ["Place", "PlacedDevice", "exists", "identity_at", "open_device"]

Place = str | os.PathLike[str]


class PlacedDevice(BlockDevice, Protocol):
    """A device that knows where it is."""

    @property
    def path(self) -> str:
        """The path or URL, for messages."""

    def identity(self) -> Hashable:
        """Equal for two handles that reach the same bytes."""


def open_device(
    place: Place, *, writable: bool = True, direct: bool = True, lock: bool = False, preempt: bool = False
) -> PlacedDevice:
    """Open the file, block device or LUN at ``place``. ``preempt`` takes a LUN from the machine that reserved it."""
    if is_iscsi(place):
        return IscsiDevice(os.fspath(place), options=options_of(place), writable=writable, lock=lock, preempt=preempt)
    return FileDevice(place, writable=writable, direct=direct, lock=lock)


def identity_at(place: Place) -> Hashable | None:
    """The identity of the device at ``place``, without opening it. None if there is none."""
    if is_iscsi(place):
        return IscsiUrl.parse(os.fspath(place)).identity
    try:
        with trying(place, "looking at it"):
            return identity_of(os.stat(place))
    except FileNotFoundError:
        return None


def exists(place: Place) -> bool:
    """Whether there is something to open. True for every LUN: opening one does not create it."""
    if is_iscsi(place):
        return True
    with trying(place, "looking at it"):
        return Path(place).exists()
