"""RingPlace: the file that a hosted domain's ring lives in, ``<runtime>/<domain>/ring``, on tmpfs.

Invariants: a new ring file gets its name only once it is formatted, and holds what is owed because an earlier ring is
lost. A surviving file is not changed before it was found to be this domain's. The domain's log is locked meanwhile, so
no other DRVA works here.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from jetdr_core._core import Ring
from jetdr_core.domain.generation import Generation
from jetdr_core.file_making import Asked, making, trying
from jetdr_core.ownership import check_private, make_private

__all__ = ["RingPlace"]

_WHAT = "the runtime folder"


class RingPlace:
    """``folder`` belongs to the domain, and is made with mode 0700."""

    def __init__(self, folder: Path, domain_uuid: UUID) -> None:
        self.path = folder / "ring"
        self._new = folder / "ring.new"
        self._epochs = folder / "ring.epochs"
        self._epochs_new = folder / "ring.epochs.new"
        self._folder = folder
        self._made = False
        self.domain_uuid = domain_uuid

    def open(self) -> Ring | None:
        """Return the ring that survived, or None without a file.

        :class:`RingForeign` for another domain's ring, :class:`RingBusy`, :class:`UnsupportedVersion`,
        :class:`DamagedObject`, and :class:`InvalidRequest` if others may enter the folder. Each changes nothing.
        """
        check_private(_WHAT, self._folder)
        try:
            with trying(self.path, "opening the ring"):
                fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            with trying(self.path, "mapping the ring"):
                return Ring.open_file(fd, domain=self.domain_uuid.bytes)
        finally:
            os.close(fd)

    def make(
        self,
        *,
        payload_bytes: int,
        slots: int,
        lsn_next: int,
        time_ns_last: int,
        record_bytes_max: int,
        write_back: bool,
    ) -> Ring:
        """Return a new ring, which has no name before :meth:`publish`."""
        make_private(_WHAT, self._folder)
        with trying(self._new, "removing it"), suppress(FileNotFoundError):
            self._new.unlink()  # of a process that ended before it published its ring
        with making(self._new, f"making a ring of {payload_bytes} bytes", Asked.SIZE | Asked.PLACE):
            fd = os.open(self._new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                ring = Ring.create_file(
                    fd,
                    domain=self.domain_uuid.bytes,
                    payload_bytes=payload_bytes,
                    slots=slots,
                    lsn_next=lsn_next,
                    time_ns_last=time_ns_last,
                    record_bytes_max=record_bytes_max,
                    write_back=write_back,
                )
            except BaseException:
                with suppress(OSError):
                    self._new.unlink()
                raise
            finally:
                os.close(fd)
        self._made = True
        return ring

    def publish(self, generation: Generation) -> None:
        """Give the ring that was made here its name, in place of one that was given up. It goes on with that log."""
        if self._made:
            with making(self.path, f"renaming {self._new.name} to it"):
                self._new.rename(self.path)
            self._made = False
        self.note(generation)

    def note(self, *generations: Generation) -> None:
        """Write down that the ring goes on with the log of any of these generations."""
        with making(self._epochs, "writing a line"):
            with trying(self._epochs_new, "writing it"):
                self._epochs_new.write_text(" ".join(map(str, generations)))
            self._epochs_new.rename(self._epochs)

    def goes_on_with(self, generation: Generation) -> bool:
        """Return whether the ring was last used with the log of ``generation``. Later, its LSNs may be other writes."""
        try:
            with trying(self._epochs, "reading it"):
                noted = self._epochs.read_text().split()
            return any(Generation.parse(one).is_same(generation) for one in noted)
        except ValueError:
            return False
        except FileNotFoundError:  # the ring's owner died before it wrote them down
            return True

    def remove(self) -> None:
        """Remove the ring: nothing is owed, and no host component uses it. The next opening makes another."""
        for path in (self.path, self._new, self._epochs, self._epochs_new):
            with trying(path, "removing it"), suppress(FileNotFoundError):
                path.unlink()
