"""VMDK: the format in which recovered disks are handed over. docs/formats/vmdk.md describes it.

Pure: ``descriptor``, ``sparse``. With I/O: ``flat``, ``stream``.
"""

from __future__ import annotations

from jetdr_core.vmdk.descriptor import FlatType, descriptor_text
from jetdr_core.vmdk.flat import write_flat_descriptor
from jetdr_core.vmdk.stream import StreamReport, encode_stream_optimized, write_stream_optimized

__all__ = [
    "FlatType",
    "StreamReport",
    "descriptor_text",
    "encode_stream_optimized",
    "write_flat_descriptor",
    "write_stream_optimized",
]
