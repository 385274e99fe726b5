"""A new file that is there in the end only if it is whole and durable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jetdr_core.errors import TargetExists


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Create ``path``, mode 0600, for the body to write; fsync it afterwards, or remove it when the body fails.

    The directory entry is the caller's to sync. Raises :class:`TargetExists` without touching what is there.
    """
    try:
        target = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", 1 << 20)
    except FileExistsError:
        raise TargetExists(f"{path} exists", hint="choose another target or remove it") from None
    try:
        with target:
            yield target
            target.flush()
            os.fsync(target.fileno())
    except BaseException:
        path.unlink()
        raise
