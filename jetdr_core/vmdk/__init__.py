"""VMDK: the form in which recovered disks are handed over. Format page: docs/formats/vmdk.md.

``descriptor`` and ``sparse`` are pure codecs; ``flat`` and ``stream`` do the I/O.
"""

from __future__ import annotations

from jetdr_core.vmdk.flat import write_flat_descriptor
from jetdr_core.vmdk.stream import StreamReport, write_stream_optimized

__all__ = ["StreamReport", "write_flat_descriptor", "write_stream_optimized"]
