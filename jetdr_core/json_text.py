"""JSON that comes from outside, decoded: from a store, a socket, or a file that may be damaged or planted.

``json.loads`` takes more than JSON, and raises more than ``ValueError``: deep nesting ends in ``RecursionError``, there
or where the value is used.

Invariant: whatever the bytes are, the answer is a value of JSON, or ``ValueError``. Callers bound the length.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

__all__ = ["decode_json"]

DEPTH_MAX = 32
"""No format of this engine nests half as deep."""


def decode_json(text: bytes) -> Any:
    """Return the value that ``text`` is, in UTF-8. ``ValueError`` if it is none, or nests too deeply."""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    _check_depth(value)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(DEPTH_MAX):
        if not level:
            return
        inside = (part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer))
        level = [part for part in inside if isinstance(part, list | dict)]
    if level:
        raise ValueError(f"it nests more than {DEPTH_MAX} deep")
