"""A structured array as bytes, and back: column by column, and in each column byte by byte. Pure.

The first bytes of all values of a column lie together, then the second bytes, and so on (*planes*). High bytes hardly
differ, so they become long runs, which LZ4 removes. Columns named in ``ascending`` are stored as differences to the row
before.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from jetdr_core._kernels import unpack_columns as unpack_planes

Table = npt.NDArray[np.void]
_Column = npt.NDArray[Any]


def pack_columns(table: Table, ascending: Collection[str] = ()) -> bytes:
    """Encode ``table`` as ``len(table) * table.dtype.itemsize`` bytes. Differences wrap, so any value survives."""
    return b"".join(_planes(_delta(table[name]) if name in ascending else table[name]) for name in _names(table.dtype))


def unpack_columns(data: Buffer, dtype: np.dtype[np.void], count: int, ascending: Collection[str] = ()) -> Table:
    """Decode what :func:`pack_columns` encoded. ``data`` must be exactly ``count * dtype.itemsize`` bytes."""
    table = np.empty(count, dtype)
    unpack_planes(data, table, ascending)
    return table


def _names(dtype: np.dtype[np.void]) -> tuple[str, ...]:
    assert dtype.names is not None
    return dtype.names


def _delta(column: _Column) -> _Column:
    return np.diff(column, prepend=column.dtype.type(0))


def _planes(column: _Column) -> bytes:
    values = np.ascontiguousarray(column)
    return values.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()
