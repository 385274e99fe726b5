"""Witnesses: what log, store, state folder and primaries of a domain in write-back say of one another.

Invariants: the state folder is brought to a new generation after the log, and before the log takes what guests write.
What a crash leaves in between is known by the claim that the state folder notes beforehand, and is no mismatch. The
primaries follow while they are served. The state folder names those that have not followed yet, and believes an older
stamp of those alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from jetdr_core.domain.disk_identity import can_carry_stamp, check_stamp_has_place, read_stamp, write_stamp
from jetdr_core.domain.generation import UNKNOWN_ID, Generation, Word
from jetdr_core.domain.hosting.generation_file import BLANK, GenerationFile, LogReach, StateRecord
from jetdr_core.errors import InvalidRequest

__all__ = ["Witnesses"]

PENDING_MAX = 100
"""So many openings in a row may have ended between claim and service."""

_WORST_FIRST = (Word.APART, Word.NEWER, Word.MISSING, Word.OLDER, Word.AGREES)


class Witnesses:
    """``log`` is the log's generation, and ``lsns`` what it holds. ``chain`` is the store's generation.

    ``relied_on`` is the state folder that the log names. ``chain`` is None while the store is away.
    """

    def __init__(
        self, state_folder: Path, log: Generation, relied_on: bytes, chain: Generation | None, lsns: LogReach = BLANK
    ) -> None:
        self._file = GenerationFile(state_folder)
        self._log = log
        self._chain = chain
        self._relied_on = relied_on
        self._lsns = lsns
        self._found = self._file.read()
        self._record = self._found or StateRecord.new()
        self._claim = log
        self._stamped: set[str] = set()
        self._lock = threading.Lock()  # what is stamped, and the file while the domain is open
        self._stamps_end = False
        self._left = False

    @property
    def state_id(self) -> bytes:
        """The state folder that the log is to rely on from now on."""
        return self._record.state_id

    # -- what they say -----------------------------------------------------------------------------------------------

    def of_chain(self) -> Word:
        """The word of the store. A claim that began nothing is no newer log."""
        if self._chain is None:
            return Word.AWAY
        word = self._log.word_of(self._chain)
        begun_nothing = word is Word.NEWER and self.of_state() is Word.AGREES and self._record.knows(self._chain)
        return Word.AGREES if begun_nothing else word

    def of_state(self) -> Word:
        """The word of the state folder."""
        if not self._log.epoch:
            return Word.SILENT
        if self._found is None:
            return Word.SILENT if self._relied_on == UNKNOWN_ID else Word.MISSING
        return self._found.word_on(self._log, self._lsns, self._relied_on)

    def of_disks(self, paths: Iterable[str]) -> Word:
        """The worst word of a primary. Refuses a primary that could not be stamped."""
        placed = list(paths)
        for path in placed:
            check_stamp_has_place(path)
        words = {self._of_disk(path) for path in placed}
        return next((word for word in _WORST_FIRST if word in words), Word.SILENT)

    def _of_disk(self, path: str) -> Word:
        if not self._log.epoch or not can_carry_stamp(path):
            return Word.SILENT
        stamp = read_stamp(path)
        may_be_older = self._relied_on == UNKNOWN_ID or self._is_unstamped(path)
        if stamp is None:
            return Word.SILENT if may_be_older else Word.MISSING
        word = self._log.word_of(stamp)
        if word is not Word.AGREES and self._found is not None and self.of_state() is Word.AGREES:
            word = Word.AGREES if self._found.knows(stamp) else word
        return Word.SILENT if may_be_older and word is Word.OLDER else word

    def _is_unstamped(self, path: str) -> bool:
        """Whether the disk was served under a generation that it had not been stamped with when the domain ended."""
        return self._found is not None and path in self._found.unstamped and self.of_state() is Word.AGREES

    @property
    def half_replayed(self) -> bool:
        """Whether somebody chose to replay this log, and that has not ended."""
        return self._found is not None and self._found.half_replayed and self.of_state() is Word.AGREES

    # -- a new generation --------------------------------------------------------------------------------------------

    def claiming(self, generation: Generation, *, believed: bool = True, replay_chosen: bool = False) -> None:
        """Note that ``generation`` is about to be claimed. If ``replay_chosen``, the log is to be replayed under it.

        Until :meth:`begin` a crash may leave log and primaries at any generation that was known before. A log that is
        not ``believed`` is not to be believed after such a crash either. A new folder of a log that is believed takes
        the identity of the one that the log relies on.
        """
        self._claim = generation
        found = self._record
        if believed and self._log.epoch:
            known = (found.last, *found.pending) if self.of_state() is Word.AGREES else ()
            claims = (*known, self._chain or self._log, generation)
            pending = tuple(dict.fromkeys(one for one in claims if not one.is_same(self._log)))
            state_id = self._relied_on if self._found is None and self._relied_on != UNKNOWN_ID else found.state_id
            self._record = replace(
                found, state_id=state_id, last=self._log, pending=pending[:1] + pending[1:][-PENDING_MAX:]
            )
        else:
            self._record = replace(found, last=generation, pending=())
        self._record = replace(self._record, half_replayed=replay_chosen, lsn=self._lsns.head)
        self._file.write(self._record)

    def begin(self, paths: Iterable[str]) -> None:
        """The log has begun the new generation: so does the state folder. The primaries at ``paths`` are to follow."""
        self._record = replace(
            self._record, last=self._claim, pending=(), half_replayed=False, unstamped=tuple(dict.fromkeys(paths))
        )
        self._file.write(self._record)

    # -- while the domain is open: for any thread ----------------------------------------------------------------------

    @property
    def unstamped(self) -> tuple[str, ...]:
        """The primaries that are to follow."""
        return self._record.unstamped

    def stamp(self, path: str) -> None:
        """Bring a primary to the new generation, unless the domain has ended. Waits while the primary hangs."""
        can_carry = can_carry_stamp(path)
        if self._stamps_end:
            return
        if can_carry:
            write_stamp(path, self._claim)
        with self._lock:
            self._stamped.add(path)

    def note_stamps(self) -> None:
        """Note which primaries have followed, unless the domain has ended."""
        with self._lock:
            unstamped = tuple(path for path in self._record.unstamped if path not in self._stamped)
            if self._left or unstamped == self._record.unstamped:
                return
            self._record = replace(self._record, unstamped=unstamped)
            self._file.write(self._record)

    @property
    def lsn(self) -> int:
        """So far the log is noted to be durable. Its tail must not pass that."""
        return self._record.lsn

    def note_lsn(self, lsn: int) -> None:
        """Note that the log is durable up to ``lsn``, unless the domain has ended."""
        with self._lock:
            if not self._left and lsn > self._record.lsn:
                record = replace(self._record, lsn=lsn)
                self._file.write(record)
                self._record = record

    def end_stamps(self) -> None:
        """Leave the primaries to the next opening."""
        self._stamps_end = True

    def leave(self) -> None:
        """Leave the file to the next opening."""
        self._left = True

    def admit(self, path: str) -> None:
        """A disk is about to be served. Refused once the domain has ended: the disk may have a newer stamp by then."""
        if self._stamps_end:
            raise InvalidRequest(f"{path} is served no longer: its domain is being closed", hint="open it again")
        write_stamp(path, self._claim)
