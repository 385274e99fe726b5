"""The metadata cache: one private SQLite file for all domains, below the user's cache directory.

Invariant: no trouble with it ends a command; it is warned of, and done without.
"""

from __future__ import annotations

import os
from pathlib import Path

from jetdr_core.cli.terminal import Terminal

__all__ = ["cache_file"]

_FILE = "indexes.sqlite"


def cache_file(terminal: Terminal, *, no_cache: bool) -> Path | None:
    """The cache's path, made if it is missing (directory 0700, file 0600); None without one."""
    if no_cache:
        return None
    try:
        path = _directory() / _FILE
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except (OSError, RuntimeError) as error:
        terminal.warn(f"going on without the metadata cache: {error}; --no-cache leaves it out")
        return None
    return path


def _directory() -> Path:
    """As the XDG Base Directory Specification says: a relative value does not count."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".cache") / "jetdr"
