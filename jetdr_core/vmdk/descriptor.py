"""The VMDK descriptor: the text that names a disk's type, extent and geometry. Pure.

Invariants: the same arguments give the same bytes. The text describes one extent and no parent.
Source: VMware, "Virtual Disk Format 1.1", chapter "Disk descriptor". Its *extent* is a file that holds the disk's data.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import DISK_BYTES_MAX, SECTOR_BYTES

CreateType = Literal["monolithicFlat", "vmfs", "streamOptimized"]
FlatType = Literal["monolithicFlat", "vmfs"]
"""Types whose extent is the disk, byte for byte: for hosted hypervisors, and for a VMFS datastore."""

CID_MAX = 0xFFFF_FFFE
"""0xFFFFFFFF means "no parent", so it cannot identify a disk."""

EXTENT_NAME_BYTES_MAX = 255

_TEMPLATE = """\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={cid:08x}
parentCID=ffffffff
createType="{create_type}"

# Extent description
{extent}

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "{geometry.cylinders}"
ddb.geometry.heads = "{geometry.heads}"
ddb.geometry.sectors = "{geometry.sectors}"
ddb.adapterType = "lsilogic"
"""


class Geometry(NamedTuple):
    """The geometry that a BIOS sees. Only old boot loaders use it."""

    cylinders: int
    heads: int
    sectors: int


def descriptor_text(create_type: CreateType, *, extent_name: str, size_bytes: int, cid: int) -> bytes:
    """The descriptor of a disk of ``size_bytes`` whose only extent is the file ``extent_name`` beside it.

    ``cid`` is the disk's content ID of 32 bits. :class:`InvalidRequest` for what the format cannot express.
    """
    check_cid(cid)
    check_extent_name(extent_name)
    sectors = sectors_of(size_bytes, DISK_BYTES_MAX)
    text = _TEMPLATE.format(
        cid=cid,
        create_type=create_type,
        extent=_extent_line(create_type, sectors, extent_name),
        geometry=geometry(sectors),
    )
    return text.encode()


def _extent_line(create_type: CreateType, sectors: int, extent_name: str) -> str:
    match create_type:
        case "monolithicFlat":
            return f'RW {sectors} FLAT "{extent_name}" 0'
        case "vmfs":
            return f'RW {sectors} VMFS "{extent_name}"'
        case "streamOptimized":
            return f'RW {sectors} SPARSE "{extent_name}"'


def geometry(sectors: int) -> Geometry:
    """The geometry that the BIOS of an LSI Logic adapter gives a disk. It changes at 1 GiB and 2 GiB."""
    if sectors < 1 << 21:
        heads, track = 64, 32
    elif sectors < 1 << 22:
        heads, track = 128, 32
    else:
        heads, track = 255, 63
    return Geometry(max(1, sectors // (heads * track)), heads, track)


def sectors_of(size_bytes: int, size_bytes_max: int) -> int:
    """``size_bytes`` in sectors, or :class:`InvalidRequest`."""
    if not SECTOR_BYTES <= size_bytes <= size_bytes_max or size_bytes % SECTOR_BYTES:
        raise InvalidRequest(
            f"a disk of {size_bytes} bytes cannot be written as VMDK",
            hint=f"sizes are multiples of {SECTOR_BYTES} from {SECTOR_BYTES} to {size_bytes_max}",
            size_bytes=size_bytes,
        )
    return size_bytes // SECTOR_BYTES


def check_cid(cid: int) -> None:
    if not 0 <= cid <= CID_MAX:
        raise InvalidRequest(f"CID {cid:#x} is not valid", hint=f"use 0 to {CID_MAX:#x}", cid=cid)


def check_extent_name(name: str) -> None:
    """Refuse what cannot be quoted: the format knows no escapes, and the name must not be a path."""
    plain = name.isprintable() and not set(name) & set('"/\\') and name not in {"", ".", ".."}
    if not plain or len(name.encode()) > EXTENT_NAME_BYTES_MAX:
        raise InvalidRequest(
            f"extent name {name!r} cannot stand in a VMDK descriptor",
            hint=f"use a plain file name of at most {EXTENT_NAME_BYTES_MAX} bytes, without quotes or slashes",
            name=name,
        )
