"""GenerationFile: what the state folder of a domain in write-back knows of the log that relies on it.

A log is replayed unless the state folder has the bypassed file. So a state folder that is missing, of another machine
or an older copy must not look like one without that file. It has an identity, which the log names, and it notes the
last generation. Within a generation it notes every second how far the log is durable. A log that ends before that is an
older copy, and so is the state folder if the log begins after it.

Invariants: the file is replaced as a whole, durably. A claim is noted before it is made, and it alone counts once disks
and log are of its generation. A file that cannot be read says nothing. docs/formats/generation.md has its format.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xxhash

from jetdr_core.domain.generation import UNKNOWN_ID, Generation, Word
from jetdr_core.durable import remove, replace_file
from jetdr_core.file_making import making, trying
from jetdr_core.json_text import decode_json

__all__ = ["BLANK", "GenerationFile", "LogReach", "StateRecord"]

VERSION = 1


class LogReach(NamedTuple):
    """The last LSN that a log no longer holds, and the last one that it holds."""

    tail: int
    head: int


BLANK = LogReach(0, 0)


@dataclass(frozen=True, slots=True)
class StateRecord:
    """What the file says.

    ``pending``: claims made since ``last``, perhaps, under which nothing was served. ``half_replayed``: somebody chose
    to replay the log under ``last``, and that has not ended. ``unstamped``: the disks that are perhaps not stamped with
    ``last`` yet, or will not be. ``lsn``: the log was durable so far, and its tail had not passed it.
    """

    state_id: bytes
    last: Generation
    pending: tuple[Generation, ...] = ()
    half_replayed: bool = False
    unstamped: tuple[str, ...] = ()
    lsn: int = 0

    @classmethod
    def new(cls) -> StateRecord:
        """Return what a new state folder begins with."""
        return cls(secrets.token_bytes(16), Generation(0))

    def knows(self, other: Generation) -> bool:
        """Whether nothing was served under another generation since ``other``."""
        return any(own.is_same(other) for own in (self.last, *self.pending))

    def word_on(self, log: Generation, lsns: LogReach, relied_on: bytes) -> Word:
        """What the state folder says of a log that relies on the folder ``relied_on``."""
        if relied_on not in {self.state_id, UNKNOWN_ID}:
            return Word.MISSING
        if self.knows(log):
            if lsns.head < self.lsn:
                return Word.NEWER
            return Word.OLDER if lsns.tail > self.lsn else Word.AGREES
        word = log.word_of(self.last)
        return Word.SILENT if relied_on == UNKNOWN_ID and word is not Word.NEWER else word


class GenerationFile:
    """The file ``<state_dir>/<domain>/generation``. Its folder is made by others."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "generation"
        self._new = folder / "generation.new"

    def read(self) -> StateRecord | None:
        """Return what the file says, or None if there is none, or none that can be believed."""
        try:
            return _decode(self.path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, record: StateRecord) -> None:
        """Replace the file. Durable at return."""
        with making(self.path, "noting the generation"):
            replace_file(self.path, self._new, _encode(record))

    def remove(self) -> None:
        """Remove the file, durably. Idempotent."""
        with trying(self.path, "looking at it"):
            stands = self.path.exists()
        if stands:
            remove(self.path)


def _encode(record: StateRecord) -> bytes:
    body = {
        "version": VERSION,
        "state_id": record.state_id.hex(),
        "last": str(record.last),
        "pending": [str(generation) for generation in record.pending],
        "half_replayed": record.half_replayed,
        "unstamped": list(record.unstamped),
        "lsn": record.lsn,
    }
    return json.dumps(body | {"checksum": _checksum(body)}).encode() + b"\n"


def _decode(raw: bytes) -> StateRecord | None:
    body = decode_json(raw)
    if body.pop("checksum") != _checksum(body) or body["version"] != VERSION:
        return None
    pending = tuple(Generation.parse(text) for text in body["pending"])
    last, unstamped = Generation.parse(body["last"]), tuple(map(str, body["unstamped"]))
    state_id, half_replayed, lsn = bytes.fromhex(body["state_id"]), bool(body["half_replayed"]), int(body["lsn"])
    return StateRecord(state_id, last, pending, half_replayed, unstamped, lsn)


def _checksum(body: object) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(body, sort_keys=True).encode())
