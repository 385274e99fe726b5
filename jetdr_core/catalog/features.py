"""Features of a store's format that an engine without them would misread, and the markers that announce them.

An engine that adds such a feature to a store puts ``format/FEATURE`` before its first object of the new kind. A reader
lists the markers before the chain, and refuses a store with a feature that it does not know. So an older engine never
takes a thinned history for a damaged one. Markers are put if absent, never changed, and never removed.

Whoever can write to the container could put a marker to shut everybody out. So in a domain with a key a marker has a
tag, and one without a right tag is left alone, with a warning.
"""

from __future__ import annotations

import logging
import struct

import xxhash

from jetdr_core.catalog.keys import FORMAT_PREFIX, feature_key, feature_of
from jetdr_core.domain_key import TAG_BYTES, DomainKey, TagPurpose
from jetdr_core.errors import StoreError, UnsupportedVersion
from jetdr_core.store import ObjectStore

__all__ = ["FEATURES", "feature_object", "list_features", "refuse_unknown_features"]

log = logging.getLogger(__name__)

FEATURES: frozenset[str] = frozenset()
"""The features that this engine reads."""

_MAGIC = b"JDRFEAT\1"
_LAYOUT = struct.Struct(f"<8s{TAG_BYTES}sQ")
_SEALED_BYTES = _LAYOUT.size - 8
_FEATURES_MAX = 64
"""More markers than that are not read. No engine has so many features."""


def feature_object(feature: str, domain_key: DomainKey | None) -> tuple[str, bytes]:
    """Key and bytes of the marker of ``feature``."""
    tag = bytes(TAG_BYTES) if domain_key is None else domain_key.tag(TagPurpose.FEATURE, feature.encode())
    sealed = _MAGIC + tag
    return feature_key(feature), sealed + xxhash.xxh3_64_intdigest(sealed).to_bytes(8, "little")


async def list_features(store: ObjectStore) -> dict[str, int]:
    """The features that the store's markers name, with the size in bytes of each marker."""
    found: dict[str, int] = {}
    async for info in store.list_prefix(FORMAT_PREFIX):
        if (feature := feature_of(info.key)) is not None:
            found[feature] = info.size_bytes
        if len(found) == _FEATURES_MAX:
            break
    return found


async def refuse_unknown_features(store: ObjectStore, found: dict[str, int], domain_key: DomainKey | None) -> None:
    """Raise :class:`UnsupportedVersion` if the store has a feature that this engine does not know.

    With ``domain_key``, bound to the domain, a marker counts only if an owner of the domain made it.
    """
    for feature in sorted(found.keys() - FEATURES):
        if domain_key is not None and not await _is_ours(store, feature, found[feature], domain_key):
            log.warning("%s is ignored: no owner of the domain put it", feature_key(feature))
            continue
        raise UnsupportedVersion(
            f"the domain in {store.url} uses {feature!r}, which this engine does not know",
            hint="use a newer engine",
            feature=feature,
        )


async def _is_ours(store: ObjectStore, feature: str, size_bytes: int, domain_key: DomainKey) -> bool:
    """Whether the marker has a right tag. One that cannot be read at present may have."""
    if size_bytes != _LAYOUT.size:
        return False
    try:
        data = await store.get_range(feature_key(feature), 0, size_bytes)
    except StoreError as error:
        if error.transient:
            raise
        return True
    magic, tag, checksum = _LAYOUT.unpack(data)
    if magic != _MAGIC or checksum != xxhash.xxh3_64_intdigest(data[:_SEALED_BYTES]):
        return False
    return domain_key.is_tag(tag, TagPurpose.FEATURE, feature.encode())
