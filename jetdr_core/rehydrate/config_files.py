"""ConfigFiles: the configuration files of the domain's machines, written beside the recovered disks.

Invariants: a file that exists is never replaced. A file is whole and durable when it gets its name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jetdr_core.config_content import config_bytes
from jetdr_core.errors import TargetExists
from jetdr_core.rehydrate.disk_files import ANNOUNCING
from jetdr_core.rehydrate.target_failure import target_call
from jetdr_core.rehydrate.target_folder import TargetFolder

__all__ = ["ConfigFiles"]


class ConfigFiles:
    """The files of one recovery, by name, in its target directory."""

    def __init__(self, directory: Path, texts: Mapping[str, str]) -> None:
        self.names = tuple(texts)
        self.paths = tuple(directory / name for name in texts)
        self._texts = {name: config_bytes(text) for name, text in texts.items()}

    def check(self, target: TargetFolder | None) -> None:
        """Raise :class:`TargetExists` if something else has the name of one."""
        if target is not None:
            for name, text in self._texts.items():
                _is_there(target, name, text)

    def write(self, target: TargetFolder, work: TargetFolder) -> None:
        """Create the files, in ``work`` while they are not whole. A file with the same content is left as it is."""
        for name, text in self._texts.items():
            if not _is_there(target, name, text):
                _create(target, work, name, text)


def _is_there(target: TargetFolder, name: str, text: bytes) -> bool:
    status = target.file_status(name)
    if status is None:
        return False
    if status.st_size != len(text) or target.read_file(name, len(text) + 1) != text:
        raise TargetExists(f"{target.path / name} exists", hint="choose another target or remove it")
    return True


def _create(target: TargetFolder, work: TargetFolder, name: str, text: bytes) -> None:
    work.remove_file(ANNOUNCING)
    fd = work.create_file(ANNOUNCING)
    try:
        with target_call(target.path / name, "writing it", size_bytes=len(text)), os.fdopen(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        work.move_file(ANNOUNCING, target, name)
    except BaseException:
        work.remove_file(ANNOUNCING)
        raise
