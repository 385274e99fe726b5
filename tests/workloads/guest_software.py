"""What a guest runs: Debian's kernel, an initramfs, and a root file system with busybox and a script of ours.

The initramfs loads the virtio driver, checks the root file system if asked to, and switches to it.
"""

from __future__ import annotations

import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.peers.guest_kernel import GuestKernel

_INITRAMFS_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
exec </dev/console >/dev/console 2>&1
mount -t proc none /proc
for module in /modules/*; do insmod $module; done
if grep -q jetdr.check /proc/cmdline; then
    mount -t ext4 /dev/vda /root && umount /root # replays the journal
    /bin/e2fsck -fn /dev/vda
    echo "e2fsck says $?"
fi
mount -t ext4 -o discard /dev/vda /root || poweroff -f
exec switch_root /root /sbin/init
"""

_ROOT_INIT = """#!/bin/sh
mount -t devtmpfs none /dev
exec </dev/console >/dev/console 2>&1
mount -t proc none /proc
content() { yes "this is file $1" | head -c $(($1 * 977 % 60000 + 1)); }

work() {
    mkdir -p /data /churn
    (n=0; while :; do n=$((n + 1)); content $n >/churn/$((n % 20)); rm -f /churn/$(((n + 7) % 20)); done) &
    n=0
    while :; do
        n=$((n + 1))
        content $n >/churn/synced && sync /churn/synced && rm /churn/synced
        content $n >/data/part && sync /data/part && mv /data/part /data/$n && sync /data && echo "done $n"
    done
}

check() {
    whole=0 broken=0
    for path in /data/[0-9]*; do
        if content ${path##*/} | cmp -s - $path; then whole=$((whole + 1)); else broken=$((broken + 1)); fi
    done
    first=0
    while [ -e /data/$((first + 1)) ]; do first=$((first + 1)); done
    echo after >/data/after && sync
    echo "whole $whole broken $broken first $first"
}

if grep -q jetdr.check /proc/cmdline; then check; poweroff -f; else work; fi
"""


@dataclass(frozen=True)
class Machine:
    """What every boot needs. It is made once."""

    qemu: str
    kernel: Path
    initramfs: Path


def machine(folder: Path, qemu: str, kernel: GuestKernel, busybox: str, e2fsck: str) -> Machine:
    files: dict[str, bytes | None] = dict.fromkeys(("bin", "dev", "proc", "root", "modules"))
    files |= {"init": _INITRAMFS_INIT.encode(), "bin/busybox": Path(busybox).read_bytes()}
    for number, module in enumerate(kernel.modules):
        files[f"modules/{number}"] = module.read_bytes()
    files |= _with_libraries("bin/e2fsck", e2fsck)
    archive = folder / "initramfs"
    archive.write_bytes(_newc(files))
    return Machine(qemu, kernel.image, archive)


def make_root(image: Path, size_mb: int, busybox: str, mkfs: str) -> None:
    """Make an ext4 file system at ``image`` from which a guest can run."""
    root = image.with_suffix(".root")
    for name in ("bin", "sbin", "dev", "proc"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path(busybox).read_bytes())
    (root / "sbin/init").write_text(_ROOT_INIT)
    for name in ("bin/busybox", "sbin/init"):
        (root / name).chmod(0o755)
    names = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True, timeout=10).stdout.split()
    for name in names:
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    subprocess.run([mkfs, "-q", "-F", "-d", root, image, f"{size_mb}M"], check=True, capture_output=True, timeout=60)


def _with_libraries(name: str, program: str) -> dict[str, bytes | None]:
    """Return a program and its shared libraries, as files of an initramfs."""
    files: dict[str, bytes | None] = {name: Path(program).read_bytes()}
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True, timeout=10).stdout
    for path in re.findall(r"(/\S+) \(0x", listed):
        place = Path(path.lstrip("/"))
        files |= {str(folder): None for folder in reversed(place.parents[:-1])}
        files[str(place)] = Path(path).read_bytes()
    return files


def _newc(files: dict[str, bytes | None]) -> bytes:
    """Return a cpio archive. A name without content is a folder."""
    pieces = [_member(number, name, data) for number, (name, data) in enumerate(files.items(), start=1)]
    return b"".join([*pieces, _member(0, "TRAILER!!!", b"")])


def _member(number: int, name: str, data: bytes | None) -> bytes:
    mode = stat.S_IFDIR | 0o755 if data is None else stat.S_IFREG | 0o755
    content = data or b""
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
