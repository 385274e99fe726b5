"""Removes secrets from text for a log line, a terminal or an answer to a client.

What a secret looks like is in the rows of :data:`~jetdr_core.store.connect.SCHEMES`, so that a new kind of store brings
the names of its secrets along.

Invariant: neither a credential of a store nor the user part of a URL passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from jetdr_core.store import connect

__all__ = ["redacted"]

_HIDDEN = "[hidden]"
_USER = re.compile(r"(?<=://)[^/?#@\s'\"]+@")


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with a word in place of each credential, and of each of the literal ``secrets``."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    names = "|".join(re.escape(name) for name in sorted(connect.secret_names()))
    named = re.compile(rf"(?i)\b({names})(=|%3D)[^&;\s'\"]+")
    return _USER.sub(f"{_HIDDEN}@", named.sub(rf"\1\2{_HIDDEN}", text))
