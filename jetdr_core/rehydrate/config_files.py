"""ConfigFiles: the configuration files of the domain's machines, written beside the recovered disks.

Invariants: a file that exists is never replaced. A file is whole and durable when it gets its name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from jetdr_core.durable import new_file, rename
from jetdr_core.errors import TargetExists
from jetdr_core.file_making import making

__all__ = ["ConfigFiles"]


class ConfigFiles:
    """The files of one recovery, by name, in its target directory."""

    def __init__(self, directory: Path, texts: Mapping[str, str]) -> None:
        self.names = tuple(texts)
        self._texts = {directory / name: text.encode() for name, text in texts.items()}

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self._texts)

    def check(self) -> None:
        """Raise :class:`TargetExists` if another file has the name of one."""
        for path, text in self._texts.items():
            _is_there(path, text)

    def write(self) -> None:
        """Create the files. A file with the same content is left as it is."""
        for path, text in self._texts.items():
            if not _is_there(path, text):
                _create(path, text)


def _is_there(path: Path, text: bytes) -> bool:
    if not os.path.lexists(path):
        return False
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != len(text) or path.read_bytes() != text:
        raise TargetExists(f"{path} exists", hint="choose another target or remove it")
    return True


def _create(path: Path, text: bytes) -> None:
    unnamed = path.with_name(f".{path.name}.config")
    unnamed.unlink(missing_ok=True)
    with making(path, f"writing a file of {len(text)} bytes"), new_file(unnamed) as target:
        target.write(text)
    rename(unnamed, path)
