"""Programs that meet a system call which fails with a chosen errno, as on file systems that cannot do it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def refusing(folder: Path, call: str, errno_name: str) -> Iterator[dict[str, str]]:
    """Give an environment in which the C function ``call``, written as its declaration, fails with that errno."""
    source, library = folder / "refusal.c", folder / "refusal.so"
    source.write_text(f"#include <errno.h>\n{call} {{ errno = {errno_name}; return -1; }}\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", library, source], check=True)
    yield os.environ | {"LD_PRELOAD": f"{library} {os.environ.get('LD_PRELOAD', '')}".strip()}
