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

Table = npt.NDArray[np.void]
_Column = npt.NDArray[Any]


def pack_columns(table: Table, ascending: Collection[str] = ()) -> bytes:
    """Encode ``table`` as ``len(table) * table.dtype.itemsize`` bytes. Differences wrap, so any value survives."""
    return b"".join(_planes(_delta(table[name]) if name in ascending else table[name]) for name in _names(table.dtype))


def unpack_columns(data: Buffer, dtype: np.dtype[np.void], count: int, ascending: Collection[str] = ()) -> Table:
    """Decode what :func:`pack_columns` encoded. ``data`` must be exactly ``count * dtype.itemsize`` bytes."""
    planes = np.frombuffer(memoryview(data), np.uint8)
    assert planes.size == count * dtype.itemsize, "the caller checked the sizes"
    table = np.empty(count, dtype)
    start = 0
    for name in _names(dtype):
        width = dtype[name].itemsize
        column = _from_planes(planes[start : start + count * width], dtype[name], count)
        table[name] = np.cumsum(column, dtype=column.dtype) if name in ascending else column
        start += count * width
    return table


def _names(dtype: np.dtype[np.void]) -> tuple[str, ...]:
    assert dtype.names is not None
    return dtype.names


def _delta(column: _Column) -> _Column:
    return np.diff(column, prepend=column.dtype.type(0))


def _planes(column: _Column) -> bytes:
    values = np.ascontiguousarray(column)
    return values.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()


def _from_planes(planes: npt.NDArray[np.uint8], dtype: np.dtype[Any], count: int) -> _Column:
    values = np.ascontiguousarray(planes.reshape(dtype.itemsize, count).T)
    return values.reshape(count * dtype.itemsize).view(dtype)
