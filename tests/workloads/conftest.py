"""The stores under every workload: a directory, and Azure Blob as Azurite serves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.peers.azurite import Azurite


@pytest.fixture(params=["directory", "azure"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a container that does not exist yet."""
    if request.param == "directory":
        yield f"file://{tmp_path}/store"
        return
    azurite: Azurite = request.getfixturevalue("azurite")
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    yield f"az://dr-{uuid4().hex}/guests"
