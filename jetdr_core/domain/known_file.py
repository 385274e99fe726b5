"""KnownFile and KnownKeeper: the file ``<state_dir>/<domain>/known``, and who keeps it up to date.

The file only makes an opening possible that would otherwise wait for the store. So whatever happens to it, the domain
goes on. But a file that is out of date must not be believed.

Invariants: the file is replaced as a whole, durably, and removed if it cannot be replaced. If it cannot be removed
either, the log keeps every control record that the file lacks. A file in a folder that others can change is not read.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from jetdr_core.catalog import HistoryFacts, encode_history
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.known_record import KNOWN_BYTES_MAX, KnownRecord, decode_known, encode_known
from jetdr_core.domain.trouble import Trouble, Troubles
from jetdr_core.durable import remove, replace_file
from jetdr_core.errors import DamagedObject, InvalidRequest
from jetdr_core.file_making import making, told
from jetdr_core.identity import check_name
from jetdr_core.ownership import check_private, make_private, open_own
from jetdr_core.replication_log import SectionBody

__all__ = ["FoldedControl", "KnownFile", "KnownKeeper"]

log = logging.getLogger(__name__)

_WHAT = "the state folder"


class FoldedControl(Protocol):
    """The control records of an open domain, folded."""

    def is_folded_to(self, lsn: int) -> bool:
        """Whether every control record up to ``lsn`` is folded."""

    def lsn_folded(self) -> int:
        """The LSN of the last control record that is folded."""

    def facts(self, lsn: int) -> HistoryFacts:
        """The history as it was at ``lsn``."""


class KnownFile:
    """The file of domain ``domain``. ``where`` is its place."""

    def __init__(self, state_dir: Path, domain: str) -> None:
        self._folder = state_dir / check_name("domain", domain)
        self.path = self._folder / "known"
        self._new = self._folder / "known.new"

    def read(self) -> KnownRecord | None:
        """Return what the file says, or None if there is none, or none that can be believed."""
        try:
            check_private(_WHAT, self._folder)
            with open(open_own(self.path, os.O_RDONLY), "rb") as file:
                record = decode_known(file.read(KNOWN_BYTES_MAX + 1))
            record.folded_history()
            return record
        except FileNotFoundError:
            return None
        except (OSError, DamagedObject, InvalidRequest) as error:
            log.warning("%s is not believed: %s", self.path, error)
            return None

    def write(self, record: KnownRecord) -> None:
        """Replace the file. Durable at return."""
        with making(self.path, "noting what is known of the store"):
            make_private(_WHAT, self._folder)
            replace_file(self.path, self._new, encode_known(record))

    def remove(self) -> None:
        """Remove the file, durably. Idempotent."""
        if os.path.lexists(self.path):
            remove(self.path)


class KnownKeeper:
    """Keeps the known file of one domain. Without a ``file`` there is nothing to keep. Thread-safe."""

    def __init__(self, file: KnownFile | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._is_stale = False  # the file cannot be replaced or removed, and lacks something
        self._unwritten: KnownRecord | None = None  # what the file could not be made to hold
        self._troubles = Troubles()
        self.record = None if file is None else file.read()

    @property
    def trouble(self) -> Trouble | None:
        """Why the file cannot be kept at present. The domain goes on meanwhile."""
        return self._troubles.present

    @property
    def _latest(self) -> KnownRecord | None:
        return self.record or self._unwritten

    def claiming(self, own: Generation, generation: Generation, *, write_back: bool) -> None:
        """The log of generation ``own`` is about to begin ``generation``, which is claimed before that."""
        known = self.record if self.record is not None and self.record.fits(own) else None
        self._put(None if known is None else known.claiming(own, generation, write_back=write_back))

    def beginning(self, own: Generation, generation: Generation, *, write_back: bool) -> None:
        """The same without a claim. Raises if that cannot be noted: the store would be taken for an older copy."""
        assert self.record is not None, "the domain was opened from it"
        assert self._file is not None
        self._file.write(record := self.record.beginning(own, generation, write_back=write_back))
        self.record = record

    def begun(self, generation: Generation) -> None:
        """The log has begun what :meth:`beginning` said."""
        if (known := self._latest) is not None:
            self._put(known.begun(generation))

    def begun_claimed(
        self, generation: Generation, log: SectionBody, record_bytes_max: int, facts: HistoryFacts
    ) -> None:
        """The log has begun ``generation``, which the chain names. All is known anew."""
        history = encode_history(facts, log.domain_uuid) if self._file is not None else None
        if history is None:
            return self._put(None)
        return self._put(
            KnownRecord(
                domain_uuid=log.domain_uuid,
                section_id=log.section_id,
                timeline=log.timeline,
                chain=generation,
                log=generation,
                write_back=log.write_back,
                record_bytes_max=record_bytes_max,
                lsn=facts.lsn,
                history=history,
            )
        )

    def joining(self) -> None:
        """The generation of the log is about to be claimed. It may be in the chain from now on."""
        with self._lock:
            if (known := self._latest) is not None:
                self._put(known.joining())

    def joined(self) -> None:
        """The chain names the generation of the log."""
        with self._lock:
            if (known := self._latest) is not None:
                self._put(known.joined())

    def ended(self) -> None:
        """Log and host component have ended in order."""
        with self._lock:
            if (known := self._latest) is not None:
                self._put(replace(known, ended=True))

    def look(self, lsn: int, control: FoldedControl) -> None:
        """Write the file again if it could not be written, or if somebody removed it. ``lsn`` is durable in the log."""
        if self._file is None:
            return
        with self._lock:
            if self.record is not None and not os.path.lexists(self._file.path):
                self.record, self._unwritten = None, self.record
            is_due = self._unwritten is not None
        if is_due:
            self.may_trim(lsn, control)

    def may_trim(self, lsn: int, control: FoldedControl) -> bool:
        """Whether the log may be trimmed up to ``lsn``: what is there of control records is in the file.

        ``lsn`` is durable in the log.
        """
        if self._file is None:
            return True
        if not control.is_folded_to(lsn):
            return False
        with self._lock:
            if self._is_stale:
                self._remove()
            known = self._latest
            if known is None:
                return not self._is_stale
            if self.record is None or control.lsn_folded() > known.lsn:
                facts = control.facts(max(lsn, known.lsn))
                history = encode_history(facts, known.domain_uuid)
                self._put(None if history is None else replace(known, lsn=facts.lsn, history=history))
            return not self._is_stale

    def _put(self, record: KnownRecord | None) -> None:
        """Write ``record``, or remove the file for good, until the log begins anew.

        What cannot be written is tried again, at each trim and each look.
        """
        if self._file is None:
            return
        self.record = None
        try:
            if record is None:
                self._file.remove()
            else:
                self._file.write(record)
            self.record, self._unwritten, self._is_stale = record, None, False
            self._troubles.note("")
        except (OSError, InvalidRequest) as error:
            self._unwritten = record
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        assert self._file is not None
        if self.trouble is None:
            log.warning("%s: the domain can be opened with its store only: %s", self._file.path, error)
        self._troubles.note(told(error))
        self._remove()

    def _remove(self) -> None:
        """Remove the file. If that is not possible, it is stale, and tried again before the log is trimmed."""
        assert self._file is not None
        try:
            self._file.remove()
            self._is_stale = False
        except OSError:
            self._is_stale = True
