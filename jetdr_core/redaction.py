"""Removes secrets from text for a log line, a terminal or an answer to a client. Pure.

Invariant: neither keys and signatures of Azure nor the user part of a URL pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["redacted"]

_HIDDEN = "[hidden]"
_NAMED = re.compile(r"(?i)\b(sig|AccountKey|SharedAccessSignature|AZURE_STORAGE_(?:KEY|SAS_TOKEN))(=|%3D)[^&;\s'\"]+")
_USER = re.compile(r"(?<=://)[^/?#@\s'\"]+@")


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with a word in place of each credential, and of each of the literal ``secrets``."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return _USER.sub(f"{_HIDDEN}@", _NAMED.sub(rf"\1\2{_HIDDEN}", text))
