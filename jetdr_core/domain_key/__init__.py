"""The domain key: the secret without which nobody can extend, alter or forge the chain of a domain.

Everything that a store holds is under checksums, but anybody can compute a checksum. A *tag* can be computed only with
the domain's key. The primitives are those of ``cryptography``: HKDF-SHA256, HMAC-SHA256 and AES-256-GCM.
"""

from jetdr_core.domain_key.content_key import INDEX_PART, SUMMARY_PART, TAG_BYTES, Bytes, ContentKey
from jetdr_core.domain_key.key import KEY_ID_BYTES, SALT_BYTES, DomainKey, KeyMode, TagPurpose
from jetdr_core.domain_key.key_file import KeyFile

__all__ = [
    "INDEX_PART",
    "KEY_ID_BYTES",
    "SALT_BYTES",
    "SUMMARY_PART",
    "TAG_BYTES",
    "Bytes",
    "ContentKey",
    "DomainKey",
    "KeyFile",
    "KeyMode",
    "TagPurpose",
]
