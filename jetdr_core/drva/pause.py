"""Pause: an operator wants nothing uploaded of a domain, kept in ``<state_dir>/<domain>/paused``.

A pause is a wish, and only ``jetdr resume`` ends it: neither a failure of the domain nor a restart does. Whoever looks
later has to learn since when nothing is uploaded, and why.

Invariants: a pause is durable before it is answered, and so is its end. A file that cannot be read is a pause too,
because somebody made it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetdr_core.catalog import iso_time
from jetdr_core.drva.state_file import StateFile
from jetdr_core.errors import InvalidRequest
from jetdr_core.file_making import told

__all__ = ["Pause", "PausedFile"]

_REASON_LENGTH_MAX = 500


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is uploaded since ``since_ns``. ``reason`` is what the operator said, and may be empty."""

    since_ns: int
    reason: str

    def __post_init__(self) -> None:
        if len(self.reason) > _REASON_LENGTH_MAX or not (self.reason.isprintable() or not self.reason):
            raise InvalidRequest(
                f"the reason {self.reason[:40]!r} is not one line", hint=f"give at most {_REASON_LENGTH_MAX} characters"
            )

    @property
    def since(self) -> str:
        return iso_time(self.since_ns)

    @property
    def why(self) -> str:
        return f"an operator paused uploading{': ' if self.reason else ''}{self.reason}"


class PausedFile:
    """Every method may block."""

    def __init__(self, state_dir: Path, domain: str) -> None:
        self._file = StateFile(
            state_dir, domain, "paused", says="since when uploading is paused", remedy=f"'jetdr resume {domain}'"
        )
        self.path = self._file.path

    def read(self) -> Pause | None:
        """Return the pause, and None if the domain is not paused."""
        try:
            return self._file.read(_decoded)
        except (InvalidRequest, OSError) as error:
            return Pause(time.time_ns(), "".join(one for one in told(error) if one.isprintable())[:_REASON_LENGTH_MAX])

    def write(self, pause: Pause) -> None:
        """Keep the pause, durably."""
        self._file.write(asdict(pause))

    def remove(self) -> None:
        """End the pause, durably. Idempotent."""
        self._file.remove()


def _decoded(content: Any) -> Pause:
    since_ns, reason = content["since_ns"], content["reason"]
    if type(since_ns) is not int or not 0 <= since_ns < 1 << 63 or not isinstance(reason, str):
        raise ValueError(f"{since_ns!r} is no time, or {reason!r} no text")
    return Pause(since_ns, reason)
