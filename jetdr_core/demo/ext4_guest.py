"""Guest: an ext4 file system in an image file, which e2fsprogs changes, and the blocks that each step changes.

The guest stands for the page cache of a virtual machine: the machine would write the blocks that differ to its disk.
The guest needs no root and mounts nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from jetdr_core.demo.files import Files, Step
from jetdr_core.demo.programs import DemoFailed, Programs

__all__ = ["BLOCK_BYTES", "IMAGE_BYTES", "Change", "Guest"]

BLOCK_BYTES = 4096
IMAGE_BYTES = 64 << 20

_IMAGE = "guest.img"
_STAGE = "stage"


class Change(NamedTuple):
    """A block after a step."""

    offset: int
    data: bytes


class Guest:
    """A file system in ``folder``, made of ``files``. ``files`` follows each :meth:`do`: what the image must hold."""

    def __init__(self, programs: Programs, folder: Path, files: Files) -> None:
        self.programs = programs
        self.folder = folder
        self.image = folder / _IMAGE
        self.files = files
        self._format()
        self._blocks = self._read()

    @property
    def checksum(self) -> bytes:
        """XXH3-128 of the whole image."""
        return xxhash.xxh3_128_digest(self._blocks.data)

    def do(self, step: Step) -> list[Change]:
        """Do ``step`` with debugfs. Return the blocks that differ, in ascending order."""
        self._debugfs(list(self._commands(step)))
        self.files = step.apply(self.files)
        before, self._blocks = self._blocks, self._read()
        changed = np.flatnonzero((before != self._blocks).any(axis=1)).tolist()
        return [Change(block * BLOCK_BYTES, self._blocks[block].tobytes()) for block in changed]

    def _format(self) -> None:
        """Make the image from a folder that holds the files."""
        stage = self.folder / _STAGE
        for path, data in self.files.items():
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            (stage / path).write_bytes(data)
        (stage / "invoices").mkdir()
        options = ["-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-L", "payroll", "-d", _STAGE]
        self.programs.run(self.folder, "mke2fs", *options, _IMAGE, f"{IMAGE_BYTES >> 10}k")
        shutil.rmtree(stage)
        stage.mkdir()

    def _commands(self, step: Step) -> Iterator[str]:
        """Return the debugfs commands for the step. New content is staged beside the image."""
        for path in step.removed:
            yield f"rm /{path}"
        for number, (path, data) in enumerate(step.written.items()):
            staged = f"{_STAGE}/{number}"
            (self.folder / staged).write_bytes(data)
            parent, _, name = path.rpartition("/")
            if path in self.files:
                yield f"rm /{path}"
            yield f"cd /{parent}"
            yield f"write {staged} {name}"

    def _debugfs(self, commands: list[str]) -> None:
        """Run the commands. debugfs exits with 0 whatever happens, so an unexpected line of output is an error."""
        script = self.folder / "commands"
        script.write_text("\n".join(commands) + "\n")
        said = self.programs.run(self.folder, "debugfs", "-w", "-f", script.name, _IMAGE).splitlines()
        strange = [line for line in said if line.strip() and not line.startswith(("debugfs", "Allocated inode:"))]
        if strange:
            raise DemoFailed(
                f"debugfs could not change the file system: {strange[0]}", hint="this is a bug of the demo"
            )

    def _read(self) -> npt.NDArray[np.uint64]:
        return np.fromfile(self.image, np.uint64).reshape(-1, BLOCK_BYTES // 8)
