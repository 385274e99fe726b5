"""The environment that a child process gets: what programs need to run, and nothing else.

The environment of a DRVA holds the credentials of its stores and log volumes. A host component faces the guests, and
outlives the DRVA, so whatever it inherits is kept where guests may reach it. It needs no credential.

Invariant: a variable is inherited only if its name is on the list here.
"""

from __future__ import annotations

import os

__all__ = ["child_environment"]

INHERITED = (
    "PATH",
    "HOME",  # without root, nbdkit looks for TLS certificates there
    "TMPDIR",
    "TZ",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LC_TIME",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "ASAN_OPTIONS",
    "UBSAN_OPTIONS",
)


def child_environment(**changes: str) -> dict[str, str]:
    """Return what of this process's environment is on the list, with ``changes``."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | changes
