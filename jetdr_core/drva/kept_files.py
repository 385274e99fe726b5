"""KeptFiles: the configuration files of a domain's machines that the configuration names, kept as they change.

Invariants: a file that cannot be kept stops nothing. It is an alarm, with the reason, and is tried again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

from jetdr_core.drva.configured_domain import AnyDomain
from jetdr_core.errors import InvalidRequest, JetdrError
from jetdr_core.file_making import read_regular_file
from jetdr_core.limits import CONTROL_BYTES_MAX
from jetdr_core.ownership import link_flags

__all__ = ["KeptFiles", "read_config_file"]

LOOK_EVERY_S = 30.0
"""How often the files are read."""


def read_config_file(path: str) -> bytes:
    """The content of the file, which must be absolute, regular and short enough for a control record. Blocks."""
    if not Path(path).is_absolute() or "\0" in path:
        raise InvalidRequest(f"the configuration file's path {path!r} is not absolute", hint="begin it with /")
    link_flags(path)  # refuses a link of another user
    return read_regular_file(path, CONTROL_BYTES_MAX)


class KeptFiles:
    """Belongs to the session's loop. :attr:`problems` may be read from any thread."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = ()
        self._paths = tuple(paths)
        self._looked_s = float("-inf")

    @property
    def are_due(self) -> bool:
        """Whether it is time to read the files."""
        return bool(self._paths) and time.monotonic() - self._looked_s >= LOOK_EVERY_S

    async def keep(self, domain: AnyDomain) -> None:
        """Keep the files that have changed."""
        self._looked_s = time.monotonic()
        found = [await asyncio.to_thread(_keep, domain, path) for path in self._paths]
        self.problems = tuple(filter(None, found))


def _keep(domain: AnyDomain, path: str) -> str:
    """Keep one file. Returns why that was not possible, or nothing."""
    try:
        domain.store_config(os.path.basename(path), read_config_file(path))
    except JetdrError as error:
        return str(error)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return ""
