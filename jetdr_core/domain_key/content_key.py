"""ContentKey: protects the frames and the index of one object. Pure. AES-GCM releases the GIL.

A key is derived from a salt that only one object has. So each part of the object can have a fixed nonce: its frame's
number, or ``INDEX_PART``. A frame that is moved to another place, or to another object, fails its check.

Invariant: a part is protected once. Two different contents of one part would share a nonce, which AES-GCM forbids.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["INDEX_PART", "Bytes", "ContentKey"]

Bytes = bytes | bytearray | memoryview
"""What ``cryptography`` takes."""

INDEX_PART = 0xFFFF_FFFF
"""The part that is the index. No frame has that number."""


@dataclass(frozen=True, slots=True)
class ContentKey:
    """The key of the object whose trailer has ``salt``."""

    secret: bytes = field(repr=False)
    salt: bytes

    def tag(self, part: int, data: Bytes) -> bytes:
        """Return the tag of a part of the object."""
        return AESGCM(self.secret).encrypt(_nonce(part), b"", data)

    def is_tag(self, tag: bytes, part: int, data: Bytes) -> bool:
        """Return whether ``tag`` is the tag of that part."""
        try:
            AESGCM(self.secret).decrypt(_nonce(part), tag, data)
        except InvalidTag:
            return False
        return True


def _nonce(part: int) -> bytes:
    return part.to_bytes(12, "little")
