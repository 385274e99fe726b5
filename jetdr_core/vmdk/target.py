"""A new file of a VMDK. It remains only if it is whole and its content is durable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from jetdr_core import durable
from jetdr_core.errors import TargetExists


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Like :func:`jetdr_core.durable.new_file`, but :class:`TargetExists` if anything has the name."""
    with ExitStack() as opened:
        try:
            target = opened.enter_context(durable.new_file(path))
        except FileExistsError:
            raise TargetExists(f"{path} exists", hint="choose another target or remove it") from None
        yield target
