"""Ranges in flight: overlapping ones take turns, a disk has its share of the ring, and a closed disk lets nobody in."""

from __future__ import annotations

import subprocess

import pytest

from tests.core.host import program


@pytest.mark.parametrize("promise", ["order", "apart", "share", "close", "settle"])
def test_ranges_keep_their_promises(promise: str) -> None:
    done = subprocess.run([program("ranges"), promise], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "kept\n"
