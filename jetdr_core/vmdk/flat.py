"""monolithicFlat and vmfs on disk: a small descriptor that names a raw file beside it. Others write the raw file."""

from __future__ import annotations

import os
from pathlib import Path

from jetdr_core.vmdk.descriptor import FlatType, descriptor_text
from jetdr_core.vmdk.target import new_file


def write_flat_descriptor(
    path: str | os.PathLike[str],
    *,
    extent_name: str,
    size_bytes: int,
    cid: int,
    create_type: FlatType = "monolithicFlat",
) -> None:
    """Create the descriptor at ``path`` for the raw file ``extent_name`` in the same directory, and sync it.

    Raises :class:`TargetExists` or :class:`InvalidRequest` before anything is written.
    """
    text = descriptor_text(create_type, extent_name=extent_name, size_bytes=size_bytes, cid=cid)
    with new_file(Path(path)) as target:
        target.write(text)
