"""Batch kernels over NumPy arrays and buffers (native/python/kernels.pyx).

Every call checks its input before it reads or writes a byte. Calls that take long release the GIL.
"""

from collections.abc import Collection, Sequence
from typing import final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

__all__ = [
    "IntervalMap",
    "check_entries",
    "check_frames",
    "check_records",
    "gather_digest",
    "scatter_write",
    "unpack_columns",
    "verify_payloads",
    "zero_runs",
]

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

def unpack_columns(data: Buffer, rows: npt.NDArray[np.void], ascending: Collection[str]) -> None:
    """Fill ``rows`` from ``data``: column by column, and in each column the first bytes of all values, then the second.

    Columns named in ``ascending``, of 8 bytes at most, are stored as differences to the row before. ValueError unless
    ``data`` is as long as ``rows``, and the columns of ``rows`` lie back to back.
    """

def check_frames(frames: npt.NDArray[np.void], start: int, stored_bytes: int, raw_bytes_max: int) -> int:
    """What is wrong with an untrusted frame table (rows that begin with ``segment.FRAME``), as a problem number.

    0 if the frames fill bytes [start, start + stored_bytes) of their object, each with at most ``raw_bytes_max`` raw.
    """

def check_entries(entries: npt.NDArray[np.void], frames: npt.NDArray[np.void], disk_bytes_max: int) -> int:
    """What is wrong with untrusted entries (rows of ``segment.ENTRY``) of a checked frame table, as a problem number.

    0 if each is whole sectors within ``disk_bytes_max`` and within its frame, and the pieces of a record fit together.
    """

def check_records(
    entries: npt.NDArray[np.void],
    control: Sequence[tuple[int, int]],
    lsns: tuple[int, int],
    times_ns: tuple[int, int],
) -> int:
    """What is wrong with the records of checked entries and of ``control`` (LSN, time), as a problem number.

    0 if they are the LSNs from the first to the last of ``lsns``, each once, and their times never decrease and run
    from the first to the last of ``times_ns``.
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
