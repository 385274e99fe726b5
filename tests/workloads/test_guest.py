"""A Linux guest on a protected root disk is switched off hard while it works, and boots from the recovered VMDK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workloads.guest_software import Machine, make_root
from tests.workloads.linux_guest import Guest, running
from tests.workloads.protected_disks import protected_disks, recovered

ROOT_MB = 48
FILES_BEFORE_MARK = 15
FILES_BEFORE_POWER_LOSS = 30


@pytest.fixture
def write_back(store: str) -> bool:
    """Machines boot slowly, so each store runs one mode."""
    return store.startswith("az://")


def test_guest_boots_from_what_was_recovered(
    tmp_path: Path, store: str, write_back: bool, host: Machine, peer: Callable[[str], str]
) -> None:
    root = tmp_path / "root.img"
    make_root(root, ROOT_MB, peer("busybox"), peer("mkfs.ext4"))
    with (
        protected_disks(tmp_path, store, {"root": root}, write_back=write_back) as protected,
        running(host, drive(protected.uris["root"], "raw")) as guest,
    ):
        guest.said(rf"^done {FILES_BEFORE_MARK}\b")
        protected.mark("while it works")
        guest.said(rf"^done {FILES_BEFORE_POWER_LOSS}\b")
        guest.switch_off_hard()
        finished = max([FILES_BEFORE_POWER_LOSS, *files_done(guest)])

    newest = recovered(store, tmp_path / "newest", at="latest", form="raw")
    assert newest["root"].read_bytes() == root.read_bytes()
    marked = recovered(store, tmp_path / "marked", at="while it works", form="stream")
    assert_boots_with(host, drive(marked["root"], "vmdk", "snapshot=on"), FILES_BEFORE_MARK)
    latest = recovered(store, tmp_path / "latest", at="latest", form="flat")
    assert_boots_with(host, drive(latest["root"], "vmdk"), finished)


def files_done(guest: Guest) -> list[int]:
    """Return what else the guest had reported before it was off. The last line may be torn."""
    words = [line.split() for line in guest.rest() if line.startswith("done ") and line.endswith("\n")]
    return [int(number) for _, number in words]


def drive(file: str | Path, form: str, *options: str) -> list[str]:
    return ["-drive", ",".join((f"file={file}", f"format={form}", "if=virtio", "discard=unmap", *options))]


def assert_boots_with(host: Machine, disk: list[str], files: int) -> None:
    """Check that the guest finds its file system clean, and every file whole that it had fsynced."""
    with running(host, disk, "jetdr.check") as guest:
        assert guest.said(r"^e2fsck says (\d+)")[1] == "0", guest.screen
        found = guest.said(r"^whole (\d+) broken (\d+) first (\d+)")
        guest.off()
    whole, broken, first = map(int, found.groups())
    print(f"{files} files were safe; {whole} are whole, {broken} broken")
    assert broken == 0
    assert whole >= first >= files
