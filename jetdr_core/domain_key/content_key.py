"""ContentKey: protects the frames and the index of one object, or a summary. Pure. AES-GCM releases the GIL.

A key is derived from a salt that only one object has. So each part of the object can have a fixed nonce: its frame's
number, ``INDEX_PART`` or ``SUMMARY_PART``. A frame that is moved to another place or another object fails its check.

Invariant: a part is protected once. Two different contents of one part would share a nonce, which AES-GCM forbids.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["INDEX_PART", "SUMMARY_PART", "TAG_BYTES", "Bytes", "ContentKey"]

Bytes = bytes | bytearray | memoryview
"""What ``cryptography`` takes."""

INDEX_PART = 0xFFFF_FFFF
SUMMARY_PART = 0xFFFF_FFFE
"""The parts that are no frame. No frame has these numbers."""

TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class ContentKey:
    """The key of the object whose trailer has ``salt``. ``encrypts``: content is stored encrypted."""

    secret: bytes = field(repr=False)
    salt: bytes
    encrypts: bool = False

    def protect(self, part: int, data: Bytes) -> tuple[Bytes, bytes]:
        """Return a part of the object as it is to be stored, and its tag. It is ``data`` itself, or as long as that."""
        if not self.encrypts:
            return data, AESGCM(self.secret).encrypt(_nonce(part), b"", data)
        sealed = memoryview(AESGCM(self.secret).encrypt(_nonce(part), data, None))
        return sealed[:-TAG_BYTES], bytes(sealed[-TAG_BYTES:])

    def reveal(self, part: int, stored: Bytes, tag: bytes) -> Bytes | None:
        """Return what :meth:`protect` was given. None if ``tag`` is not the tag of that part."""
        try:
            if self.encrypts:
                return AESGCM(self.secret).decrypt(_nonce(part), b"".join((stored, tag)), None)
            AESGCM(self.secret).decrypt(_nonce(part), tag, stored)
        except InvalidTag:
            return None
        return stored


def _nonce(part: int) -> bytes:
    return part.to_bytes(12, "little")
