"""GuestKernel: Debian's kernel for cloud guests, and the modules it needs for a virtio disk.

apt-get downloads it, and it is unpacked into ``.peers/`` of the repository. Nothing is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

from tests.peers.azurite import PEERS, PeerMissing

META_PACKAGE = "linux-image-cloud-amd64"
FOLDER = PEERS / "guest-kernel"
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")
"""In the order in which the guest loads them."""


@dataclass(frozen=True)
class GuestKernel:
    image: Path
    modules: tuple[Path, ...]


def install() -> GuestKernel:
    """Return the kernel, and download it if needed. Several processes may call this at once."""
    PEERS.mkdir(exist_ok=True)
    with (PEERS / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not FOLDER.exists():
            _download(FOLDER)
    return _found(FOLDER)


def _download(folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise PeerMissing("apt-get and dpkg-deb are not installed; the guest's kernel comes from Debian")
    part = folder.with_name("guest-kernel.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "apt/lists/partial").mkdir(parents=True)
    own_lists = ("-o", f"Dir::State::lists={part}/apt/lists", "-o", f"Dir::Cache={part}/apt")
    try:
        _run("apt-get", *own_lists, "update", folder=part)
        package = _package(_run("apt-cache", *own_lists, "depends", META_PACKAGE, folder=part))
        _run("apt-get", *own_lists, "download", package, folder=part)
        (file,) = part.glob("*.deb")
        _run("dpkg-deb", "-x", str(file), str(part), folder=part)
    except subprocess.CalledProcessError as error:
        raise PeerMissing(f"no kernel for the guest: {' '.join(error.cmd)}: {error.stderr}") from error
    shutil.rmtree(part / "apt")
    file.unlink()
    part.rename(folder)


def _package(depends: str) -> str:
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if found is None:
        raise PeerMissing(f"Debian has no {META_PACKAGE} for this machine: {depends}")
    return found[1]


def _run(*command: str, folder: Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, cwd=folder).stdout


def _found(folder: Path) -> GuestKernel:
    (image,) = folder.glob("boot/vmlinuz-*")
    return GuestKernel(image, tuple(next(folder.rglob(f"{module}.ko*")) for module in MODULES))
