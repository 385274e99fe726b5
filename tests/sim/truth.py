"""Truth: what a disk may hold, from what its guests were told.

Every sector that a guest writes names the write. So what a sector holds says which write it is from, and that is judged
against the order of the calls:

- After a crash a sector may hold any write that had begun, unless a later write to it had been flushed. A write is
  later than another if it began after the other had returned.
- At an LSN a sector holds the last write up to that LSN. A write that never returned an LSN may be there or not.

Invariant: a write is noted before it begins, and its end only while its machine lives.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jetdr_core.limits import SECTOR_BYTES

__all__ = ["Truth", "Write"]

ZEROS = bytes(SECTOR_BYTES)


@dataclass(slots=True)
class Write:
    """``begun`` and ``ended`` are places in the order of events.

    ``flushed``: a flush that began after its end has returned. ``in_doubt``: a flush that was for it has failed, so no
    later one vouches for it.
    """

    number: int
    first: int
    count: int
    is_zero: bool
    begun: int
    ended: int | None = None
    lsn: int = 0
    flushed: bool = False
    in_doubt: bool = False

    def sector(self, at: int) -> bytes:
        """What sector ``at`` of the disk holds after this write."""
        return ZEROS if self.is_zero else b"%015d.%015d." % (self.number, at) * 16

    def data(self) -> bytes:
        return b"".join(self.sector(at) for at in range(self.first, self.first + self.count))


@dataclass(slots=True)
class Truth:
    """One disk, from the image ``base`` on.

    ``before`` is what the disk could hold instead, until a flush returns: after the death of a process its unflushed
    writes are there, and a later power loss may still undo them.
    """

    base: bytes
    numbers: int = 0
    before: Truth | None = None
    writes: list[Write] = field(default_factory=list)
    events: int = 0
    base_in_doubt: bool = False

    def begin(self, first: int, count: int, *, is_zero: bool) -> Write:
        self.events += 1
        self.numbers += 1
        write = Write(self.numbers, first, count, is_zero, self.events)
        self.writes.append(write)
        return write

    def end(self, write: Write, lsn: int) -> None:
        self.events += 1
        write.ended, write.lsn = self.events, lsn

    def never_begun(self, write: Write) -> None:
        """The call was refused, with nothing changed."""
        self.writes.remove(write)

    def about_to_flush(self) -> list[Write]:
        """Return the writes that a flush is for that begins now."""
        return [write for write in self.writes if write.ended is not None and not write.flushed]

    def flushed(self, writes: list[Write]) -> None:
        if not self.base_in_doubt:
            self.before = None
        for write in writes:
            write.flushed = not write.in_doubt

    def flush_failed(self) -> None:
        """The disk may have lost, for good, what was not flushed, though readers still see it."""
        self.base_in_doubt = True
        for write in self.writes:
            write.in_doubt = not write.flushed

    def after(self, image: bytes, *, is_durable: bool) -> Truth:
        """Return what goes on from here, where the disk holds ``image``."""
        return Truth(image, self.numbers, None if is_durable else self)

    # -- what may be -------------------------------------------------------------------------------------------------

    def wrong_after_crash(self, image: bytes) -> str:
        """Say what a disk that was not closed may not hold, but does. Empty if all is well."""
        touching = self._by_sector()
        for at in range(len(self.base) // SECTOR_BYTES):
            if wrong := _compare(image, at, self._may_be_after_crash(at, touching.get(at, []))):
                return wrong
        return ""

    def _may_be_after_crash(self, at: int, touching: list[Write]) -> set[bytes]:
        flushed = [write for write in touching if write.flushed]
        possible = [write for write in touching if not any(_is_later(newer, write) for newer in flushed)]
        contents = {write.sector(at) for write in possible}
        if not flushed:
            contents.add(_held(self.base, at))
            if self.before is not None:
                contents |= self.before._may_be_after_crash(at, self.before._by_sector().get(at, []))
        return contents

    def wrong_at(self, lsn: int, image: bytes) -> str:
        """Say what the disk may not hold at ``lsn``, but ``image`` does. Empty if all is well."""
        touching = self._by_sector()
        for at in range(len(self.base) // SECTOR_BYTES):
            if wrong := _compare(image, at, self._may_be_at(lsn, at, touching.get(at, []))):
                return wrong
        return ""

    def _may_be_at(self, lsn: int, at: int, touching: list[Write]) -> set[bytes]:
        known = [write for write in touching if write.lsn and write.lsn <= lsn]
        last = max(known, key=lambda write: write.lsn, default=None)
        contents = {write.sector(at) for write in touching if not write.lsn}
        contents.add(_held(self.base, at) if last is None else last.sector(at))
        return contents

    def _by_sector(self) -> dict[int, list[Write]]:
        found: dict[int, list[Write]] = {}
        for write in self.writes:
            for at in range(write.first, write.first + write.count):
                found.setdefault(at, []).append(write)
        return found


def _compare(image: bytes, at: int, contents: set[bytes]) -> str:
    held = _held(image, at)
    if held in contents:
        return ""
    return f"sector {at} holds {_name(held)}, not one of {sorted(map(_name, contents))}"


def _held(image: bytes, at: int) -> bytes:
    return image[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]


def _is_later(newer: Write, older: Write) -> bool:
    return older.ended is not None and newer.begun > older.ended


def _name(sector: bytes) -> str:
    return "zeros" if sector == ZEROS else sector[:32].decode(errors="replace")
