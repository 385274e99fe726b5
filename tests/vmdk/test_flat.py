"""monolithicFlat and vmfs: a raw file becomes a VMDK by a descriptor beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jetdr_core.errors import InvalidRequest, TargetExists
from jetdr_core.vmdk import write_flat_descriptor
from jetdr_core.vmdk.descriptor import FlatType, descriptor_text, geometry
from tests.vmdk.images import (
    SHAPES,
    TIB,
    Shape,
    assert_qemu_reads_the_same,
    dissect_bytes,
    dissect_size,
    noise,
    qemu_img,
    write_raw,
)


def flat(folder: Path, shape: Shape, create_type: FlatType = "monolithicFlat") -> tuple[Path, Path]:
    raw = write_raw(folder / "disk-flat.vmdk", shape)
    vmdk = folder / "disk.vmdk"
    write_flat_descriptor(
        vmdk, extent_name=raw.name, size_bytes=shape.size_bytes, cid=0xC0FFEE, create_type=create_type
    )
    return vmdk, raw


TYPES = pytest.mark.parametrize("create_type", ["monolithicFlat", "vmfs"])


@TYPES
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_qemu_reads_the_bytes_of_the_extent(
    tmp_path: Path, peer: Callable[[str], str], shape: Shape, create_type: FlatType
) -> None:
    vmdk, raw = flat(tmp_path, shape, create_type)
    assert_qemu_reads_the_same(peer("qemu-img"), vmdk, raw)


@TYPES
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_independent_reader_reads_the_bytes_of_the_extent(
    tmp_path: Path, shape: Shape, create_type: FlatType
) -> None:
    vmdk, raw = flat(tmp_path, shape, create_type)
    assert dissect_bytes(vmdk, 0, shape.size_bytes) == raw.read_bytes()


def test_a_disk_of_three_tebibytes_is_read_at_its_far_end(tmp_path: Path, peer: Callable[[str], str]) -> None:
    size = 3 * TIB + 512
    vmdk, raw = flat(tmp_path, Shape(size, ((size - 512, noise(512)),)))
    assert dissect_size(vmdk) == size
    assert dissect_bytes(vmdk, size - 512, 512) == noise(512)
    qemu_img(peer("qemu-img"), "compare", "-f", "raw", "-F", "vmdk", raw, vmdk)


@TYPES
def test_qemu_names_the_type_the_size_and_the_content_identity(
    tmp_path: Path, peer: Callable[[str], str], create_type: FlatType
) -> None:
    vmdk, _ = flat(tmp_path, SHAPES["random"], create_type)
    info = json.loads(qemu_img(peer("qemu-img"), "info", "--output=json", vmdk))
    specific = info["format-specific"]["data"]
    assert (info["virtual-size"], specific["create-type"], specific["cid"]) == (5 << 20, create_type, 0xC0FFEE)


@pytest.mark.parametrize(
    ("create_type", "golden"), [("monolithicFlat", "flat-0.1.0.vmdk"), ("vmfs", "vmfs-0.1.0.vmdk")]
)
def test_the_same_arguments_give_the_same_descriptor(create_type: FlatType, golden: str) -> None:
    expected = Path(__file__).with_name("golden") / golden
    text = descriptor_text(create_type, extent_name="db01-flat.vmdk", size_bytes=40 << 30, cid=0x1234ABCD)
    assert text == expected.read_bytes()


@pytest.mark.parametrize("size_bytes", [0, -512, 511, 513, (1 << 50) + 512])
def test_a_size_that_is_no_disk_is_refused_and_nothing_written(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(InvalidRequest, match=str(size_bytes)):
        write_flat_descriptor(tmp_path / "disk.vmdk", extent_name="disk-flat.vmdk", size_bytes=size_bytes, cid=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", 'a"b', "a\\b", "a\nb", "x" * 256])
def test_an_extent_name_that_cannot_be_quoted_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="extent name"):
        write_flat_descriptor(tmp_path / "disk.vmdk", extent_name=name, size_bytes=512, cid=1)


@pytest.mark.parametrize("cid", [-1, 0xFFFF_FFFF, 1 << 32])
def test_a_content_identity_that_means_no_parent_or_does_not_fit_is_refused(tmp_path: Path, cid: int) -> None:
    with pytest.raises(InvalidRequest, match="CID"):
        write_flat_descriptor(tmp_path / "disk.vmdk", extent_name="x", size_bytes=512, cid=cid)


def test_an_existing_descriptor_is_left_alone(tmp_path: Path) -> None:
    there = tmp_path / "disk.vmdk"
    there.write_bytes(b"mine")
    with pytest.raises(TargetExists, match=r"disk\.vmdk exists"):
        write_flat_descriptor(there, extent_name="x", size_bytes=512, cid=1)
    assert there.read_bytes() == b"mine"


@pytest.mark.parametrize("size_bytes", [512, 1 << 30, (1 << 30) + 512, 2 << 30, 3 * TIB])
def test_the_geometry_covers_the_disk_to_the_last_whole_cylinder(size_bytes: int) -> None:
    cylinders, heads, track = geometry(size_bytes // 512)
    assert cylinders == 1 or 0 <= size_bytes // 512 - cylinders * heads * track < heads * track
