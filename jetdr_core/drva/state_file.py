"""StateFile: one small JSON file of a domain in the state folder, with what an operator has said.

Invariants: the file is replaced as a whole, durably, so a crash leaves what was said before or what is said now. A file
in a folder that others can change is refused, and so is one of another version. A missing file says nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from jetdr_core.drva.wire import Json
from jetdr_core.durable import remove, replace_file
from jetdr_core.errors import InvalidRequest
from jetdr_core.file_making import making, trying
from jetdr_core.identity import check_name
from jetdr_core.json_text import decode_json
from jetdr_core.ownership import check_private, make_private, open_own

__all__ = ["StateFile"]

_WHAT = "the state folder"
_VERSION = 1
_BYTES_MAX = 16 << 20

T = TypeVar("T")


class StateFile:
    """``<state_dir>/<domain>/<name>``. ``says`` completes "it does not say …". Every method may block."""

    def __init__(self, state_dir: Path, domain: str, name: str, *, says: str, remedy: str) -> None:
        self._folder = state_dir / check_name("domain", domain)
        self.path = self._folder / name
        self._says = says
        self._remedy = remedy

    def read(self, decode: Callable[[Any], T]) -> T | None:
        """Return the decoded content, and None if there is no file.

        :class:`InvalidRequest` for a file that this engine did not write: ``decode`` raises ``ValueError``,
        ``TypeError`` or ``KeyError``.
        """
        try:
            check_private(_WHAT, self._folder)
            with trying(self.path, "reading it"), open(open_own(self.path, os.O_RDONLY), "rb") as file:
                content = decode_json(file.read(_BYTES_MAX + 1))
            if not isinstance(content, dict) or content.pop("version") != _VERSION:
                raise ValueError("it is not of this version")
            return decode(content)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidRequest(
                f"{self.path} does not say {self._says}: {error}", hint=f"remove it, and {self._remedy}"
            ) from error

    def write(self, content: Json) -> None:
        """Replace the content. Durable at return."""
        with making(self.path, f"noting {self._says}"):
            make_private(_WHAT, self._folder)
            text = json.dumps({"version": _VERSION, **content}).encode()
            replace_file(self.path, self.path.with_suffix(".new"), text)

    def remove(self) -> None:
        """Remove the file, durably. Idempotent."""
        if os.path.lexists(self.path):
            with making(self.path, f"noting {self._says}"):
                remove(self.path)
