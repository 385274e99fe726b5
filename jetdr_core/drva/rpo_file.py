"""RpoFile: the RPO of a domain as it was last known, in ``<state_dir>/<domain>/rpo``, for the next run of the DRVA.

A DRVA that was started again knows nothing of a domain that it cannot open, while that domain's guests may go on
writing. What the store lacks then goes back to the run before. So each run leaves its last word here.

Invariants: the file is advisory. One that is missing, damaged or from the future says nothing, and one that cannot be
written stops nothing. Nobody waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import time
from pathlib import Path
from typing import NamedTuple

from jetdr_core.errors import InvalidRequest
from jetdr_core.json_text import decode_json
from jetdr_core.ownership import open_own

__all__ = ["RpoFile"]

log = logging.getLogger(__name__)

NOTE_EVERY_S = 10.0
_BYTES_MAX = 4096


class _Noted(NamedTuple):
    rpo_s: float
    at_ns: int


class RpoFile:
    """In ``folder``, which the domain makes. :meth:`note` belongs to one event loop, :attr:`rpo_s` to any thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rpo"
        self._noted_s = -math.inf
        self._noting: asyncio.Future[None] | None = None
        self._before = self._read()

    @property
    def rpo_s(self) -> float | None:
        """The RPO of the run before, as it is now. None if nothing is known of it."""
        before, now_ns = self._before, time.time_ns()
        return None if before is None or before.at_ns > now_ns else before.rpo_s + (now_ns - before.at_ns) / 1e9

    def note(self, rpo_s: float) -> None:
        """Have the present RPO written, unless that was done lately or is still being done. Does not wait."""
        now_s = time.monotonic()
        if now_s - self._noted_s < NOTE_EVERY_S or (self._noting is not None and not self._noting.done()):
            return
        self._noted_s = now_s
        self._noting = asyncio.ensure_future(asyncio.to_thread(self._write, _Noted(rpo_s, time.time_ns())))

    def _write(self, noted: _Noted) -> None:
        new = self._path.with_name("rpo.new")
        try:
            new.write_text(json.dumps(noted._asdict()))
            new.rename(self._path)
        except OSError as error:
            log.debug("%s: %s", self._path, error)

    def _read(self) -> _Noted | None:
        try:
            with open(open_own(self._path, os.O_RDONLY), "rb") as file:
                found = decode_json(file.read(_BYTES_MAX))
            rpo_s, at_ns = float(found["rpo_s"]), int(found["at_ns"])
        except (InvalidRequest, OSError, ValueError, TypeError, KeyError, OverflowError):
            return None
        return _Noted(rpo_s, at_ns) if math.isfinite(rpo_s) and rpo_s >= 0 else None
