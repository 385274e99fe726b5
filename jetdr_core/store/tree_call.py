"""TreeCall: one call of an :class:`~jetdr_core.store.tree.ObjectTree` as data, and its answer as bytes.

So a call can be made in a thread, or sent to a process. The formats here are spoken between two processes of one
version only, so they carry none.

Invariants: what is decoded is bounded by the size of a message. Anything else raises ``ValueError``. A message says how
many bytes travel beside it, because the system drops a descriptor for which the receiver has no room, and passes the
message on without it.
"""

from __future__ import annotations

import enum
import errno
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jetdr_core.store.tree import FileSystemAway, ObjectTree, PathMoved, Row

__all__ = ["MESSAGE_BYTES_MAX", "CallAnswer", "CallRequest", "TreeCall", "TreeStep", "perform", "rows_of"]

MESSAGE_BYTES_MAX = 4096
"""A key has at most 512 bytes, and a text of an error is cut to fit. Payload travels beside a message."""

_REQUEST = struct.Struct("<QBQQQ")
_ANSWER = struct.Struct("<QBiQ")
_TEXT_BYTES_MAX = MESSAGE_BYTES_MAX - max(_REQUEST.size, _ANSWER.size)


class TreeStep(enum.IntEnum):
    CREATE = 1
    REPLACE = 2
    READ = 3
    READ_RANGE = 4
    SCAN = 5
    REMOVE = 6


@dataclass(frozen=True, slots=True)
class TreeCall:
    """``key`` is a key, or a prefix for ``SCAN``. ``READ_RANGE`` alone has a range."""

    step: TreeStep
    key: str
    offset: int = 0
    length: int = 0

    @property
    def changes(self) -> bool:
        """Whether the call changes the container."""
        return self.step in {TreeStep.CREATE, TreeStep.REPLACE, TreeStep.REMOVE}

    def reads_of(self, key: str) -> bool:
        """Whether the call reads something that depends on the object ``key``."""
        return key.startswith(self.key) if self.step is TreeStep.SCAN else key == self.key and not self.changes


def perform(tree: ObjectTree, call: TreeCall, views: Sequence[memoryview]) -> bytes:
    """Make the call, and return what it reads. Raises what the tree raises."""
    match call.step:
        case TreeStep.CREATE:
            tree.create(call.key, views)
        case TreeStep.REPLACE:
            tree.replace(call.key, views)
        case TreeStep.READ:
            return tree.read(call.key)
        case TreeStep.READ_RANGE:
            return tree.read_range(call.key, call.offset, call.length)
        case TreeStep.SCAN:
            directory, _, name_prefix = call.key.rpartition("/")
            return _listing(tree.scan(directory, name_prefix))
        case TreeStep.REMOVE:
            tree.remove(call.key)
    return b""


def rows_of(listing: bytes) -> list[Row]:
    """Return the rows of a scan. No name of a row has a space or a line end, because a key has none."""
    return [Row(name, int(size)) for name, size in (line.split(" ") for line in listing.decode().splitlines())]


def _listing(rows: Iterable[Row]) -> bytes:
    return "".join(f"{row.name} {row.size_bytes}\n" for row in rows).encode()


# -- between two processes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A call, with a number of its own. ``data_bytes`` to write travel beside it."""

    number: int
    call: TreeCall
    data_bytes: int = 0

    def encoded(self) -> bytes:
        call = self.call
        head = _REQUEST.pack(self.number, call.step, call.offset, call.length, self.data_bytes)
        return head + call.key.encode()

    @classmethod
    def decoded(cls, message: bytes) -> CallRequest:
        number, step, offset, length, data_bytes = _REQUEST.unpack(_head(message, _REQUEST.size))
        return cls(number, TreeCall(TreeStep(step), message[_REQUEST.size :].decode(), offset, length), data_bytes)

    def perform(self, tree: ObjectTree, views: Sequence[memoryview]) -> bytes:
        """Make the call with what came beside it: see :func:`perform`. ``OSError`` if not all has come."""
        if sum(view.nbytes for view in views) != self.data_bytes:
            raise _lost_on_the_way()
        return perform(tree, self.call, views)


class _Outcome(enum.IntEnum):
    DONE = 0
    OS_ERROR = 1
    ENDS_EARLY = 2
    MOVED = 3
    BUG = 4
    UNMOUNTED = 5


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """How the call of that number ended. ``data_bytes`` that it read travel beside. An ``OSError`` keeps its notes."""

    number: int
    error: Exception | None = None
    data_bytes: int = 0

    def encoded(self) -> bytes:
        outcome, code, text = _described(self.error)
        return _ANSWER.pack(self.number, outcome, code, self.data_bytes) + text.encode()[:_TEXT_BYTES_MAX]

    @classmethod
    def decoded(cls, message: bytes) -> CallAnswer:
        number, outcome, code, data_bytes = _ANSWER.unpack(_head(message, _ANSWER.size))
        text = message[_ANSWER.size :].decode(errors="replace")
        return cls(number, _error(_Outcome(outcome), code, text), data_bytes)

    def problem(self, data: bytes) -> Exception | None:
        """Return why ``data``, which came beside it, is not what the call read. None if it is."""
        return self.error or (None if len(data) == self.data_bytes else _lost_on_the_way())


def _described(error: Exception | None) -> tuple[_Outcome, int, str]:
    match error:
        case None:
            return _Outcome.DONE, 0, ""
        case PathMoved():
            return _Outcome.MOVED, 0, ""
        case FileSystemAway():
            return _Outcome.UNMOUNTED, 0, ""
        case EOFError():
            return _Outcome.ENDS_EARLY, 0, ""
        case OSError():
            text = error.strerror or str(error)
            return _Outcome.OS_ERROR, error.errno or 0, "\n".join([text, *getattr(error, "__notes__", [])])
        case _:
            return _Outcome.BUG, 0, repr(error)


def _error(outcome: _Outcome, code: int, text: str) -> Exception | None:
    match outcome:
        case _Outcome.DONE:
            return None
        case _Outcome.MOVED:
            return PathMoved()
        case _Outcome.UNMOUNTED:
            return FileSystemAway()
        case _Outcome.ENDS_EARLY:
            return EOFError(text)
        case _Outcome.OS_ERROR:
            text, *notes = text.splitlines() or [os.strerror(code)]
            error = OSError(code, text)
            for note in notes:
                error.add_note(note)
            return error
        case _Outcome.BUG:
            return RuntimeError(text)


def _lost_on_the_way() -> OSError:
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    error.add_note("passing its bytes between two processes")
    return error


def _head(message: bytes, size_bytes: int) -> bytes:
    if not size_bytes <= len(message) <= MESSAGE_BYTES_MAX:
        raise ValueError(f"a message has {len(message)} bytes")
    return message[:size_bytes]
