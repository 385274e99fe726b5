"""The programs that the demo checks itself with: finds them, runs them, and accepts no exit status but 0."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from jetdr_core.child_environment import child_environment
from jetdr_core.errors import JetdrError
from jetdr_core.file_making import trying

__all__ = ["DemoFailed", "ProgramMissing", "Programs", "find_programs"]

PACKAGES = {
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "qemu-img": "qemu-utils",
}
"""The Debian package of each program."""

_SYSTEM_PLACES = ("/usr/sbin", "/sbin", "/usr/local/sbin")
"""Where Debian keeps the tools of ext4. Not every user has these on the PATH."""

_LIMIT_S = 120


class ProgramMissing(JetdrError):
    """A program that the demo checks itself with is not installed."""


class DemoFailed(JetdrError):
    """A check of the demo failed: the recovered disk differs from the protected one, or a program failed."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The paths of the programs, by name."""

    paths: dict[str, str]

    def run(self, folder: Path, name: str, *arguments: str) -> str:
        """Run a program in ``folder``. Return its output of both streams. DemoFailed if its status is not 0."""
        with trying(self.paths[name], "running it"):
            done = subprocess.run(
                [self.paths[name], *arguments],
                cwd=folder,
                env=child_environment(LC_ALL="C", DEBUGFS_PAGER="cat"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_LIMIT_S,
                check=False,
            )
        said = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise DemoFailed(
                f"{name} {' '.join(arguments)} ended with status {done.returncode}: {_last_line(said)}",
                hint="run the demo with --keep, and look at what it leaves",
            )
        return said


def find_programs() -> Programs:
    """Return all programs. :class:`ProgramMissing` names those that are missing, and their Debian packages."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_PLACES])
    found = {name: shutil.which(name, path=places) for name in PACKAGES}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        packages = dict.fromkeys(PACKAGES[name] for name in missing)
        raise ProgramMissing(
            f"the demo needs {', '.join(missing)}",
            hint=f"install the Debian packages: apt-get install {' '.join(packages)}",
        )
    return Programs({name: path for name, path in found.items() if path is not None})


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["no output"])[-1]
