"""Batch kernels over NumPy arrays and buffers (native/python/kernels.pyx).

Every call checks its input before it reads or writes a byte, and releases the GIL while it runs.
"""

from typing import final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

__all__ = ["IntervalMap", "gather_digest", "scatter_write", "verify_payloads", "zero_runs"]

def verify_payloads(headers: npt.NDArray[np.void], payload: Buffer) -> int:
    """The index of the first record whose payload does not match its XXH3-64 or ends beyond the buffer; -1 if none.

    ``headers`` has rows of ``record.RECORD``. Payloads lie back to back in record order. A record without payload must
    have checksum 0.
    """

def zero_runs(payload: Buffer, block_bytes: int) -> npt.NDArray[np.uint8]:
    """A flag for each block of ``block_bytes``, the last of which may be short: 1 if all its bytes are zero."""

def scatter_write(fd: int, source: Buffer, pieces: npt.NDArray[np.void], digest: int = 0) -> int:
    """Write the pieces (rows of ``extent.PIECE``) of the frame ``source`` to their offsets in ``fd``.

    Returns the digest of the bytes written: their XXH3-64, seeded with ``digest``, that of the frame before.

    Pieces that follow one another in the target are written by one system call. Raises ValueError, before anything is
    written, if a piece ends beyond ``source``. After an OSError any part may be written. Nothing is durable at return.
    """

def gather_digest(fd: int, pieces: npt.NDArray[np.void], digest: int = 0) -> int:
    """Return the digest of what ``fd`` holds where ``pieces`` of any number of frames belong, frame by frame.

    It equals the digest that :func:`scatter_write` returned for the last of these frames, if their bytes are unchanged.
    A target that ends before a piece does is an OSError (EIO).
    """

@final
class IntervalMap:
    """The bytes of one disk that are covered so far, as intervals of which no two touch. An interval takes 32 bytes.

    One thread at a time: a second thread gets RuntimeError. After a MemoryError the map must be given up.
    """

    def __init__(self) -> None: ...
    @property
    def covered_bytes(self) -> int: ...
    @property
    def memory_bytes(self) -> int:
        """The bytes allocated for intervals, in use or not."""
    def __len__(self) -> int:
        """The number of intervals."""
    def overlay(self, offsets: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.void]:
        """Cover the pieces in the order given, the newest first; returns what each is the first to cover.

        Rows of ``source`` (the piece's index), ``offset`` and ``length``, all u8, ordered by source and then by offset.
        """
    def intervals(self) -> npt.NDArray[np.void]:
        """Rows of ``start`` and ``end`` in ascending order. No two intervals touch."""
