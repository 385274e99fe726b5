"""How far a primary may lag in write-back: by what it takes in a second, as measured from flush to flush."""

from __future__ import annotations

import subprocess

import pytest

from tests.core.host import program


@pytest.mark.parametrize("promise", ["slow", "quick", "light", "small", "counts"])
def test_the_pace_of_a_disk_keeps_its_promises(promise: str) -> None:
    done = subprocess.run([program("pace"), promise], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "kept\n"
