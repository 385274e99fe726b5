"""The live piece: which bytes of which frame belong at which place of a disk. Owns the dtype shared with ``native/scatter.h``.

Invariant: 32 bytes a piece, so that a plan over millions of them stays small. Talks to: numpy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["PIECE", "Pieces"]

PIECE = np.dtype(
    [
        ("offset", "<u8"),  # in the disk
        ("lsn", "<u8"),
        ("length", "<u4"),
        ("frame_offset", "<u4"),
        ("frame", "<u4"),  # row in the segment plan's table of frames
        ("disk", "<u4"),  # row in the plan's table of disks
    ]
)
assert PIECE.itemsize == 32

Pieces = npt.NDArray[np.void]
"""Structured array of dtype :data:`PIECE`."""
