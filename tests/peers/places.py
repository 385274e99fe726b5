"""The places for a log volume: a file, block devices, LUNs. Each place is empty, and removed afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.peers.loop import loop_device, partition_on_loop_device
from tests.peers.tgt import Tgt

PLACE_BYTES = 96 << 20
"""The size of a place that cannot grow."""


@contextmanager
def opened_place(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the path or URL of an empty place."""
    match kind:
        case "file":
            yield str(folder / "log")
        case "loop":
            with loop_device(folder / "log-image", PLACE_BYTES) as path:
                yield path
        case "partition":
            with partition_on_loop_device(folder / "log-image", PLACE_BYTES) as path:
                yield path
        case _:
            tgt: Tgt = request.getfixturevalue("tgt")
            lun = tgt.add(PLACE_BYTES, block_bytes=4096 if kind == "lun_of_4k_blocks" else 512)
            try:
                yield lun.url
            finally:
                tgt.remove(lun)
