"""What every workload runs on: a store in a directory or in Azurite, one of two modes, and the guest's machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.peers import guest_kernel
from tests.peers.azurite import Azurite, PeerMissing
from tests.workloads.guest_software import Machine, machine

LIMIT_S = 300
"""The limit of one test on a busy machine. Every wait in a test has a shorter limit."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.fixture(params=["directory", "azure"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the URL of a container that does not exist yet."""
    if request.param == "directory":
        yield f"file://{tmp_path}/store"
        return
    azurite: Azurite = request.getfixturevalue("azurite")
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    yield f"az://dr-{uuid4().hex}/guests"


@pytest.fixture(params=[False, True], ids=["write-through", "write-back"])
def write_back(request: pytest.FixtureRequest) -> bool:
    """Whether the domain runs in write-back."""
    return bool(request.param)


@pytest.fixture
def host(tmp_path: Path, peer: Callable[[str], str]) -> Machine:
    try:
        kernel = guest_kernel.install()
    except PeerMissing as missing:
        pytest.skip(str(missing))
    return machine(tmp_path, peer("qemu-system-x86_64"), kernel, peer("busybox"), peer("e2fsck"))
