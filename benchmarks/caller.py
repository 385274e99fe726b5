"""Compiles and runs the C callers in benchmarks/native with the engine's sources."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import PeerMissing

__all__ = ["call"]

_ROOT = Path(__file__).resolve().parent.parent
_ENGINE = ("core/*.c", "checksum.c", "checksum_avx2.c")
_FLAGS = ("-std=c11", "-O2", "-g", "-D_GNU_SOURCE", "-DXXH_INLINE_ALL", "-Wall", "-Wextra", "-Wno-unused-parameter")
"""The flags of setup.py, so that XXH3 and the copies are compiled as in the engine."""


def call(program: str, *arguments: object) -> list[tuple[float, ...]]:
    """Run a caller and return its lines as numbers. RuntimeError holds what it printed if one of its checks failed."""
    done = subprocess.run(
        [str(_compiled(program)), *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{program}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return [tuple(map(float, line.split())) for line in done.stdout.splitlines()]


@cache
def _folder() -> TemporaryDirectory[str]:
    """Return the folder of compiled callers. It is removed when the process ends."""
    return TemporaryDirectory(prefix="jetdr-callers-")


@cache
def _compiled(program: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise PeerMissing("no C compiler is installed")
    output = Path(_folder().name) / program
    sources = [
        _ROOT / "benchmarks/native" / f"{program}.c",
        *(path for name in _ENGINE for path in sorted((_ROOT / "native").glob(name))),
    ]
    command = [compiler, *_FLAGS, f"-I{_ROOT / 'native'}", "-o", str(output), *map(str, sources), "-lpthread"]
    subprocess.run(command, check=True, timeout=120)
    return output
