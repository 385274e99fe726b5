"""Sparse raw images of named shapes, and the readers nobody here wrote: qemu-img and dissect.hypervisor."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dissect.hypervisor.disk.vmdk import VMDK

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40


class Shape(NamedTuple):
    """A disk and the (offset, bytes) written on it; the rest is a hole."""

    size_bytes: int
    writes: tuple[tuple[int, bytes], ...] = ()


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


SHAPES = {
    "empty": Shape(MIB),
    "one_sector": Shape(512, ((0, noise(512)),)),
    "one_sector_of_hole": Shape(512),
    "grain_less_a_sector": Shape(64 * KIB - 512, ((0, noise(64 * KIB - 512)),)),
    "grain": Shape(64 * KIB, ((0, noise(64 * KIB)),)),
    "grain_and_a_sector": Shape(64 * KIB + 512, ((64 * KIB, noise(512)),)),
    "compressible": Shape(3 * MIB + 1536, ((0, b"the same line again\n" * 100_000), (3 * MIB, b"z" * 1536))),
    "random": Shape(5 * MIB, ((0, noise(5 * MIB)),)),
    "written_zeros": Shape(2 * MIB, ((0, bytes(MIB)), (MIB, noise(512)), (MIB + 512, bytes(512 * KIB)))),
    "table_edges": Shape(97 * MIB, ((32 * MIB - 512, noise(1024)), (96 * MIB, noise(64 * KIB)))),
    "alternating_grains": Shape(8 * MIB, tuple((i * 128 * KIB, noise(64 * KIB, i)) for i in range(64))),
}


def write_raw(path: Path, shape: Shape) -> Path:
    with path.open("wb") as raw:
        raw.truncate(shape.size_bytes)
        for offset, data in shape.writes:
            os.pwrite(raw.fileno(), data, offset)
    return path


def qemu_img(program: str, *arguments: str | Path) -> str:
    """Output of one qemu-img call that must succeed."""
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_qemu_reads_the_same(program: str, vmdk: Path, raw: Path) -> None:
    """Checked, compared and converted by qemu-img: the VMDK is the raw image."""
    qemu_img(program, "check", "-f", "vmdk", vmdk)
    qemu_img(program, "compare", "-f", "raw", "-F", "vmdk", raw, vmdk)
    converted = vmdk.with_suffix(".converted")
    qemu_img(program, "convert", "-f", "vmdk", "-O", "raw", vmdk, converted)
    assert converted.read_bytes() == raw.read_bytes()


@contextmanager
def _dissected(vmdk: Path) -> Iterator[VMDK]:
    with vmdk.open("rb") as file:
        disk = VMDK(file)
        try:
            yield disk
        finally:
            for extent in disk.disks:
                extent.fh.close()


def dissect_bytes(vmdk: Path, offset: int, length: int) -> bytes:
    """Whole sectors; by ``read_sectors``, as ``read`` fails near the end of a disk that is not a multiple of 8 KiB."""
    with _dissected(vmdk) as disk:
        return bytes(disk.read_sectors(offset // 512, length // 512))


def dissect_size(vmdk: Path) -> int:
    with _dissected(vmdk) as disk:
        return int(disk.size)
