"""A running host component for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host.guest import Guest, short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture
def stopped(folder: Path, peer: Callable[[str], str]) -> Iterator[Guest]:
    """A host component that was not started yet."""
    guest = Guest(folder, peer)
    yield guest
    guest.end()


@pytest.fixture
def guest(stopped: Guest) -> Guest:
    """A host component that serves two disks, unprotected."""
    stopped.start()
    return stopped
