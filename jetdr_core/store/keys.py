"""Checks of keys, prefixes, ranges and data that every store makes at its door, and the errors that all stores share.

Invariants: a key that passes is the name of a file below its container on any POSIX file system, of a blob on Azure
and of an object in S3. It never leads out of its container. When a check raises, nothing was changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from typing_extensions import Buffer

from jetdr_core.errors import InvalidRequest, ObjectUnavailable, StoreError

KEY_CHARS_MAX = 512
PART_CHARS_MAX = 200

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
_PREFIX = re.compile(rf"(?:{_PART}/)*(?:{_PART})?")
_HINT = "use parts of letters, digits, '.', '_' or '-', each beginning with a letter or digit, joined by '/'"


def is_key(text: str) -> bool:
    """Whether ``text`` can be a key. Anything else that is found in a container is not ours, and is left alone."""
    return _KEY.fullmatch(text) is not None and _fits(text)


def check_key(key: str) -> None:
    if not isinstance(key, str) or not is_key(key):
        raise InvalidRequest(f"object key {key!r} is not valid", hint=f"{_HINT}; at most {KEY_CHARS_MAX} characters")


def check_prefix(prefix: str) -> None:
    """Accept any string that begins a key, including the empty one."""
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix) or not _fits(prefix):
        raise InvalidRequest(f"key prefix {prefix!r} begins no valid key", hint=_HINT)


def check_range(key: str, offset: int, length: int) -> None:
    if offset < 0 or length < 0:
        raise InvalidRequest(f"{key!r}: the range of {length} bytes at {offset} is negative", hint="use 0 or more")


def byte_views(data: Sequence[Buffer]) -> list[memoryview]:
    """Return flat byte views of the buffers that are not empty. They pin the caller's memory until they are freed."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidRequest("an object's data is one buffer", hint="pass a sequence of buffers: [data]")
    return [view.cast("B") for view in (memoryview(buffer) for buffer in data) if view.nbytes]


def size_bytes(views: Sequence[memoryview]) -> int:
    return sum(view.nbytes for view in views)


def store_closed(operation: str, key: str) -> StoreError:
    return StoreError(operation, key, "the store was closed", transient=False, hint="open it again")


def too_short(key: str, offset: int, length: int) -> StoreError:
    """Return the error of an object that ends inside the range."""
    return ObjectUnavailable(
        "get range",
        key,
        f"the object ends before byte {offset + length} (range of {length} bytes at {offset})",
        hint="it is truncated, or the range came from another object",
    )


def _fits(text: str) -> bool:
    return len(text) <= KEY_CHARS_MAX and all(length <= PART_CHARS_MAX for length in map(len, text.split("/")))
