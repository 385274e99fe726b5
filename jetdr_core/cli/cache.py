"""The metadata cache: one private SQLite file for all domains, below the user's cache directory.

Invariant: an error of the cache never ends a command. The command warns, and works without the cache.
"""

from __future__ import annotations

import os
from pathlib import Path

from jetdr_core.cli.terminal import Terminal

__all__ = ["cache_file"]

_FILE = "indexes.sqlite"


def cache_file(terminal: Terminal, *, no_cache: bool) -> Path | None:
    """Return the cache's path, or None without a cache. A missing cache is made: directory 0700, file 0600."""
    if no_cache:
        return None
    try:
        path = _directory() / _FILE
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
        if path.exists() and not path.is_file():
            raise OSError(f"{path} is not a regular file; remove it")
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600))
    except (OSError, RuntimeError) as error:
        terminal.warn(f"no metadata cache: {error}; --no-cache suppresses this warning")
        return None
    return path


def _directory() -> Path:
    """Return the directory that the XDG Base Directory Specification names. It ignores a relative value."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".cache") / "jetdr"
