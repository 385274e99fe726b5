"""The stores under every workload: a directory, and Azure Blob as Azurite serves it. And the machine of every guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.peers import guest_kernel
from tests.peers.azurite import Azurite, PeerMissing
from tests.workloads.guest_software import Machine, machine


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


@pytest.fixture
def host(tmp_path: Path, peer: Callable[[str], str]) -> Machine:
    try:
        kernel = guest_kernel.install()
    except PeerMissing as missing:
        pytest.skip(str(missing))
    return machine(tmp_path, peer("qemu-system-x86_64"), kernel, peer("busybox"), peer("e2fsck"))
