"""A domain key: what is made with it is of no use for another domain, purpose, object or part."""

from __future__ import annotations

import hmac
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from jetdr_core.domain_key import INDEX_PART, DomainKey, KeyMode, TagPurpose
from jetdr_core.errors import WrongKey

DOMAIN = UUID("7f1d2c3b-0000-4000-8000-00000000d0a1")
OTHER = UUID("7f1d2c3b-0000-4000-8000-00000000d0a2")
SECRET = bytes(range(32))
KEY = DomainKey(SECRET, DOMAIN)
ENCRYPTING = DomainKey(SECRET, DOMAIN, mode=KeyMode.ENCRYPT)
KEYS = [KEY, ENCRYPTING]


def test_what_is_derived_from_a_key_is_the_same_in_every_version() -> None:
    assert KEY.key_id.hex() == "ac28103d6eba2cca"
    assert KEY.tag(TagPurpose.TRAILER, b"data").hex() == "c219b65bed7a05f69f6b82a14647d350"
    content = KEY.content_key(bytes(range(16)))
    assert content.protect(0, b"data")[1].hex() == "e601312af35371340229d80f443f079b"
    assert content.protect(INDEX_PART, b"data")[1].hex() == "c27760dc56ef03f2e7c7053509b384e7"


def test_keys_are_derived_and_small_things_tagged_as_documented() -> None:
    """HKDF-SHA256 (RFC 5869) and HMAC-SHA256, written down here once more with the standard library alone."""
    tag_key = hkdf(SECRET, b"", b"jetdr 2\0trailer tag\0" + DOMAIN.bytes, 32)
    assert hmac.digest(tag_key, b"data", "sha256")[:16] == KEY.tag(TagPurpose.TRAILER, b"data")
    assert hkdf(SECRET, b"", b"jetdr 2\0key id", 8) == KEY.key_id
    salt = bytes(range(16))
    content_key = hkdf(SECRET, salt, b"jetdr 2\0content authenticate\0" + DOMAIN.bytes, 32)
    assert (
        AESGCM(content_key).encrypt((3).to_bytes(12, "little"), b"", b"data")
        == (KEY.content_key(salt).protect(3, b"data")[1])
    )


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    assert length <= 32, "one block is enough here"
    return hmac.digest(hmac.digest(salt or bytes(32), secret, "sha256"), info + b"\1", "sha256")[:length]


def test_a_tag_holds_for_its_purpose_domain_key_and_bytes_alone() -> None:
    tag = KEY.tag(TagPurpose.TRAILER, b"da", b"ta")
    assert KEY.is_tag(tag, TagPurpose.TRAILER, b"data")
    assert not KEY.is_tag(tag, TagPurpose.SUMMARY, b"data")
    assert not KEY.is_tag(tag, TagPurpose.TRAILER, b"date")
    assert not DomainKey(SECRET, OTHER).is_tag(tag, TagPurpose.TRAILER, b"data")
    assert not DomainKey(bytes(32), DOMAIN).is_tag(tag, TagPurpose.TRAILER, b"data")


@pytest.mark.parametrize("key", KEYS)
def test_content_is_bound_to_its_part_its_salt_its_domain_and_its_mode(key: DomainKey) -> None:
    content = key.new_content_key()
    stored, tag = content.protect(3, b"frame")
    assert content.reveal(3, stored, tag) == b"frame"
    assert (len(stored), len(tag), stored == b"frame") == (5, 16, key is KEY)
    assert content.reveal(4, stored, tag) is None
    assert content.reveal(3, bytes([stored[0] ^ 1]) + bytes(stored[1:]), tag) is None
    assert content.reveal(3, stored, tag[:-1] + bytes([tag[-1] ^ 1])) is None
    assert key.new_content_key().reveal(3, stored, tag) is None
    assert DomainKey(SECRET, OTHER, mode=key.mode).content_key(content.salt).reveal(3, stored, tag) is None
    for other in KEYS:
        assert (other.content_key(content.salt).reveal(3, stored, tag) is None) == (other is not key)


def test_encrypted_content_is_aes_256_gcm_under_the_derived_key() -> None:
    salt = bytes(range(16))
    content_key = hkdf(SECRET, salt, b"jetdr 2\0content encrypt\0" + DOMAIN.bytes, 32)
    stored, tag = ENCRYPTING.content_key(salt).protect(3, b"data")
    assert AESGCM(content_key).decrypt((3).to_bytes(12, "little"), bytes(stored) + tag, None) == b"data"


def test_every_object_has_a_salt_of_its_own() -> None:
    assert len({KEY.new_content_key().salt for _ in range(100)}) == 100


def test_the_id_of_a_key_does_not_depend_on_its_domain() -> None:
    assert DomainKey(SECRET).key_id == KEY.key_id
    assert DomainKey.new().key_id != DomainKey.new().key_id


def test_a_key_is_bound_once() -> None:
    assert DomainKey(SECRET).bound_to(DOMAIN) == KEY
    assert KEY.bound_to(DOMAIN) == KEY
    with pytest.raises(WrongKey, match=f"is the key of domain {DOMAIN}; the store holds domain {OTHER}"):
        KEY.bound_to(OTHER)


def test_nothing_shows_the_secret() -> None:
    shown = f"{KEY} {KEY!r} {KEY.new_content_key()!r}"
    assert SECRET.hex() not in shown
    assert repr(SECRET) not in shown
