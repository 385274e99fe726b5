"""AbsentDevice: stands for a disk that cannot be opened at present. It has the disk's size, and nothing else."""

from __future__ import annotations

from typing import NoReturn

from typing_extensions import Buffer

from jetdr_core.errors import PrimaryAway
from jetdr_core.limits import SECTOR_BYTES


class AbsentDevice:
    """A device of ``size_bytes`` whose every I/O raises :class:`PrimaryAway` with the ``reason``."""

    block_bytes = SECTOR_BYTES

    def __init__(self, size_bytes: int, reason: str) -> None:
        self.size_bytes = size_bytes
        self._reason = reason

    def read_into(self, offset: int, target: Buffer) -> None:  # noqa: ARG002 - what BlockDevice asks for
        self._fail()

    def write(self, offset: int, data: Buffer) -> None:  # noqa: ARG002
        self._fail()

    def zero(self, offset: int, length: int) -> None:  # noqa: ARG002
        self._fail()

    def sync(self) -> None:
        self._fail()

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """There is nothing to release."""

    def _fail(self) -> NoReturn:
        raise PrimaryAway(self._reason)
