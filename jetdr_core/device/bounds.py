"""The checks in front of every block device: range, alignment, writability, and the caller's buffer.

Invariant: past this check, offset and length are multiples of the device's block, and the range lies in the device.
"""

from __future__ import annotations

from typing_extensions import Buffer

from jetdr_core.errors import InvalidRequest


def check_range(what: str, offset: int, length: int, *, size_bytes: int, block_bytes: int) -> None:
    """Raise :class:`InvalidRequest` unless ``[offset, offset + length)`` is aligned and inside the device."""
    if offset % block_bytes or length % block_bytes:
        raise InvalidRequest(
            f"{what}: offset {offset} and length {length} are not both multiples of {block_bytes}",
            hint=f"align the range to {block_bytes} bytes",
        )
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise InvalidRequest(
            f"{what}: {length} bytes at {offset} do not lie within its {size_bytes} bytes",
            hint="stay inside the device",
        )


def check_writable(what: str, *, writable: bool) -> None:
    """Raise :class:`InvalidRequest` unless the device was opened to be written."""
    if not writable:
        raise InvalidRequest(f"{what} was opened read-only", hint="open it writable")


def byte_view(data: Buffer) -> memoryview:
    """``data`` as contiguous bytes. :class:`InvalidRequest` if that takes a copy."""
    view = memoryview(data)
    if not view.c_contiguous:
        raise InvalidRequest("the buffer is not contiguous", hint="pass one contiguous buffer")
    return view if view.ndim == 1 and view.format == "B" else view.cast("B")


def target_view(target: Buffer) -> memoryview:
    """``target`` as contiguous, writable bytes. :class:`InvalidRequest` if it is not such a buffer."""
    view = byte_view(target)
    if view.readonly:
        raise InvalidRequest("the buffer to read into is read-only", hint="pass a bytearray or another writable buffer")
    return view
