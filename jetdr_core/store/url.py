"""Store URLs: which store a URL means. The only place where the store's environment variables are read.

Invariant: a message quotes a URL without its query, fragment and user, where secrets stand.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

from jetdr_core.errors import InvalidRequest
from jetdr_core.store.directory import DirectoryStore
from jetdr_core.store.memory import MemoryStore
from jetdr_core.store.protocol import ObjectStore

__all__ = ["open_store"]

_HINT = "use file:///PATH, az://CONTAINER[/PREFIX], https://ACCOUNT.blob.core.windows.net/CONTAINER or memory://NAME"


def open_store(url: str, *, create: bool = False) -> ObjectStore:
    """The bare store at ``url``: no retries, no limits. A bad URL is an :class:`InvalidRequest`.

    A missing directory is refused here, a missing Azure container at the first operation; ``create`` creates either.
    """
    if not isinstance(url, str) or not url.isprintable():
        raise InvalidRequest("the store URL is not printable text", hint=_HINT)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidRequest("the store URL is malformed", hint=_HINT) from None
    match parts.scheme:
        case "file":
            return DirectoryStore(_directory(parts), create=create)
        case "memory":
            return MemoryStore(_memory_name(parts))
        case "az" | "https":
            return _azure(url, create=create)
        case "":
            raise InvalidRequest(f"store {parts.path!r} is not a URL", hint=_HINT)
    raise InvalidRequest(f"store URL {_shown(parts)!r} has the unknown scheme {parts.scheme!r}", hint=_HINT)


def _directory(parts: SplitResult) -> Path:
    _refuse_extras(parts)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise InvalidRequest(f"store URL {_shown(parts)!r} is relative", hint="use an absolute path: file:///PATH")
    path = PurePosixPath(unquote(parts.path))
    if ".." in path.parts or "\0" in str(path):
        raise InvalidRequest(f"store URL {_shown(parts)!r} contains '..' or NUL", hint="write the path out")
    return Path("/", *path.parts[1:])


def _memory_name(parts: SplitResult) -> str:
    _refuse_extras(parts)
    if parts.path.strip("/"):
        raise InvalidRequest(f"store URL {_shown(parts)!r} has a path", hint="use memory://NAME")
    return parts.netloc


def _azure(url: str, *, create: bool) -> ObjectStore:
    """Imported on use: the Azure SDK takes longer to import than a local recovery point takes to list."""
    from jetdr_core.store.azure import AzureBlobStore  # noqa: PLC0415
    from jetdr_core.store.azure_target import azure_target  # noqa: PLC0415

    return AzureBlobStore(azure_target(url, os.environ), create=create)


def _refuse_extras(parts: SplitResult) -> None:
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidRequest(
            f"store URL {_shown(parts)!r} has a query, a fragment or a user",
            hint="leave it out, or write '?' as %3F and '#' as %23 if the path has them",
        )


def _shown(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
