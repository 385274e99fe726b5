"""Text without secrets: what may stand in a log line, on a terminal, in an answer to a client. Pure.

Invariants: keys and signatures of Azure, and the user part of any URL, never pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["redacted"]

_HIDDEN = "[hidden]"
_NAMED = re.compile(r"(?i)\b(sig|AccountKey|SharedAccessSignature|AZURE_STORAGE_(?:KEY|SAS_TOKEN))(=|%3D)[^&;\s'\"]+")
_USER = re.compile(r"(?<=://)[^/?#@\s'\"]+@")


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` with credentials, and each of the literal ``secrets``, replaced by a word."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return _USER.sub(f"{_HIDDEN}@", _NAMED.sub(rf"\1\2{_HIDDEN}", text))
