"""The object store a protected domain is shipped to: one protocol, three implementations, two wrappers.

``open_store`` gives the bare store of a URL; wrap it: ``RetryingStore(BandwidthLimitedStore(open_store(url), rate))``.
docs/formats/store.md says what each implementation does for atomicity and durability.
"""

from __future__ import annotations

from jetdr_core.store.bandwidth import BandwidthLimitedStore
from jetdr_core.store.directory import DirectoryStore
from jetdr_core.store.memory import MemoryStore
from jetdr_core.store.protocol import ObjectInfo, ObjectStore
from jetdr_core.store.retry import RetryingStore, RetryPolicy
from jetdr_core.store.url import open_store
from jetdr_core.store.wrapper import StoreWrapper

__all__ = [
    "BandwidthLimitedStore",
    "DirectoryStore",
    "MemoryStore",
    "ObjectInfo",
    "ObjectStore",
    "RetryPolicy",
    "RetryingStore",
    "StoreWrapper",
    "open_store",
]
