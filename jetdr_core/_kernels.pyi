"""Batch kernels (native/python/kernels.pyx). Every call checks its input before it touches memory and runs without the GIL."""

from typing import final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

__all__ = ["IntervalMap", "scatter_write", "verify_payloads", "zero_runs"]

def verify_payloads(headers: npt.NDArray[np.void], payload: Buffer) -> int:
    """Index of the first record (rows of ``record.RECORD``) whose payload fails its XXH3-64 or leaves the buffer; -1 if all are good.

    Payloads lie back to back in record order. A record without payload must carry checksum 0.
    """

def zero_runs(payload: Buffer, block_bytes: int) -> npt.NDArray[np.uint8]:
    """One flag per block of ``block_bytes`` (the last may be short): 1 where every byte of it is zero."""

def scatter_write(fd: int, source: Buffer, pieces: npt.NDArray[np.void]) -> None:
    """Write the pieces (rows of ``extent.PIECE``) of the frame ``source`` to their offsets in ``fd``.

    Pieces whose targets follow one another go out in one system call. ValueError before the first byte is written if a piece leaves
    ``source``; after an OSError any part may be written. Nothing is durable at return.
    """

@final
class IntervalMap:
    """The bytes of one disk that are covered so far; at most 32 bytes per interval, touching intervals being one.

    One thread at a time: a second one gets RuntimeError. After MemoryError the map must be given up.
    """

    def __init__(self) -> None: ...
    @property
    def covered_bytes(self) -> int: ...
    @property
    def memory_bytes(self) -> int:
        """Allocated for nodes, used or not."""
    def __len__(self) -> int:
        """Intervals held."""
    def overlay(self, offsets: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.void]:
        """Cover the pieces in the order given (newest first); returns what each covers first.

        Rows ``source`` (index of the piece), ``offset``, ``length``, all u8: in order of source, and of offset within one source.
        """
    def intervals(self) -> npt.NDArray[np.void]:
        """Rows ``start``, ``end`` in ascending order; no two touch."""
