"""Files whose writes and flushes QEMU records: its storage daemon exports them by FUSE, over blklogwrites."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

LIMIT_S = 30.0


class NotExported(Exception):
    """The daemon has not made the files available."""


class Recorded(NamedTuple):
    """``path`` is the file to use, and ``log`` has what was done to it."""

    path: Path
    log: Path


@contextlib.contextmanager
def recorded_files(daemon: str, folder: Path, sizes: Mapping[str, int]) -> Iterator[dict[str, Recorded]]:
    """Yield files of zeros by name, which are recorded until the end of the context."""
    command, made = [daemon], dict[str, Recorded]()
    for name, size in sizes.items():
        raw, made[name] = folder / f"{name}.raw", Recorded(folder / f"{name}.file", folder / f"{name}.log")
        for path in (raw, *made[name]):
            path.touch()
        os.truncate(raw, size)
        command += ["--blockdev", f"driver=file,node-name={name}-raw,filename={raw},discard=unmap"]
        command += ["--blockdev", f"driver=file,node-name={name}-log,filename={made[name].log}"]
        command += ["--blockdev", f"driver=blklogwrites,node-name={name},file={name}-raw,log={name}-log"]
        command += ["--export", f"type=fuse,id=e-{name},node-name={name},mountpoint={made[name].path},writable=on"]
    said = folder / "daemon.said"
    with said.open("w") as errors, subprocess.Popen(command, stdout=errors, stderr=errors) as process:
        try:
            deadline = time.monotonic() + LIMIT_S
            while not all(os.path.ismount(file.path) for file in made.values()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise NotExported(said.read_text())
                time.sleep(0.01)
            yield made
        finally:
            process.terminate()
            process.wait(LIMIT_S)
