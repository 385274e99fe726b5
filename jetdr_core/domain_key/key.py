"""DomainKey: the secret of one domain, and the tags that are made with it. Pure but for the random numbers.

Two kinds of things are tagged. Small ones (a trailer, a summary, a heartbeat) get an HMAC, which may be computed again
for other bytes under the same key. Content (frames and index) gets a key of its own for each object, because the nonces
of AES-GCM must never repeat under one key: see :class:`~jetdr_core.domain_key.ContentKey`.

Invariants: a key derived for one domain, purpose or mode is of no use for another. Neither ``repr`` nor any error shows
the secret.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from uuid import UUID

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from jetdr_core.domain_key.content_key import TAG_BYTES, Bytes, ContentKey
from jetdr_core.errors import WrongKey

__all__ = ["KEY_ID_BYTES", "SALT_BYTES", "TAG_BYTES", "DomainKey", "KeyMode", "TagPurpose"]

SECRET_BYTES = 32
KEY_ID_BYTES = 8
SALT_BYTES = 16


class KeyMode(enum.StrEnum):
    """What is done to content, from the first object of a domain on."""

    AUTHENTICATE = "authenticate"
    """It is stored as it is, with tags."""
    ENCRYPT = "encrypt"
    """It is stored encrypted, with tags."""


class TagPurpose(enum.StrEnum):
    """What a tag vouches for. Each purpose has a key of its own."""

    TRAILER = "trailer"
    SUMMARY = "summary"
    HEARTBEAT = "heartbeat"
    FEATURE = "feature"


@dataclass(frozen=True, slots=True)
class DomainKey:
    """The key of one domain.

    ``domain_uuid`` is the domain that the key is bound to. None: the domain was not known when the key was made.
    Chain objects from ``number_first`` on must have tags, so that nobody can put objects without tags in their place.
    ``source`` says in errors where the key came from.
    """

    secret: bytes = field(repr=False)
    domain_uuid: UUID | None = None
    number_first: int = 1
    mode: KeyMode = KeyMode.AUTHENTICATE
    source: str = "the key"

    @classmethod
    def new(cls, *, mode: KeyMode = KeyMode.AUTHENTICATE, source: str = "the key") -> DomainKey:
        """Return a new key, which is bound to no domain yet."""
        return cls(os.urandom(SECRET_BYTES), mode=mode, source=source)

    @property
    def key_id(self) -> bytes:
        """What tells this key from another one. It says nothing about the secret."""
        return self._derive(b"key id", b"", KEY_ID_BYTES)

    @property
    def encrypts(self) -> bool:
        """Whether content is stored encrypted."""
        return self.mode is KeyMode.ENCRYPT

    def bound_to(self, domain_uuid: UUID) -> DomainKey:
        """Return the key as that of domain ``domain_uuid``. :class:`WrongKey` if it is bound to another one."""
        if self.domain_uuid not in {None, domain_uuid}:
            raise WrongKey(
                f"{self.source} is the key of domain {self.domain_uuid}; the store holds domain {domain_uuid}",
                hint="give the key of that domain, or check the store's URL",
                key_id=self.key_id.hex(),
            )
        return replace(self, domain_uuid=domain_uuid)

    def tag(self, purpose: TagPurpose, *parts: Bytes) -> bytes:
        """Return the tag of ``parts``, one after the other. The key must be bound."""
        mac = HMAC(self._derive(f"{purpose} tag".encode(), b"", SECRET_BYTES), SHA256())
        for part in parts:
            mac.update(part)
        return mac.finalize()[:TAG_BYTES]

    def is_tag(self, tag: bytes, purpose: TagPurpose, *parts: Bytes) -> bool:
        """Return whether ``tag`` is the tag of ``parts``."""
        return compare_digest(tag, self.tag(purpose, *parts))

    def new_content_key(self) -> ContentKey:
        """Return the key for the content of a new object, with a salt that no other object has."""
        return self.content_key(os.urandom(SALT_BYTES))

    def content_key(self, salt: bytes) -> ContentKey:
        """Return the key for the content of the object whose trailer has ``salt``."""
        secret = self._derive(f"content {self.mode}".encode(), salt, SECRET_BYTES)
        return ContentKey(secret, salt, self.encrypts)

    def _derive(self, purpose: bytes, salt: bytes, length: int) -> bytes:
        info = b"jetdr 2\0" + purpose
        if purpose != b"key id":
            assert self.domain_uuid is not None, "the key is bound before it is used"
            info += b"\0" + self.domain_uuid.bytes
        return HKDF(SHA256(), length, salt or None, info).derive(self.secret)
