"""The object store that a protected domain is shipped to: one protocol, three implementations, two wrappers.

``connected`` gives the store of a URL, with retries and a limit on its bandwidth. docs/formats/store.md says what each
implementation does for atomicity and durability.
"""

from __future__ import annotations

from jetdr_core.store.bandwidth import BandwidthLimitedStore
from jetdr_core.store.connect import connected, is_lasting_url, open_store, url_forms
from jetdr_core.store.directory import DirectoryStore
from jetdr_core.store.memory import MemoryStore
from jetdr_core.store.protocol import ObjectInfo, ObjectRange, ObjectStore
from jetdr_core.store.retry import AWAY_S, RetryingStore, RetryPolicy
from jetdr_core.store.wrapper import StoreWrapper

__all__ = [
    "AWAY_S",
    "BandwidthLimitedStore",
    "DirectoryStore",
    "MemoryStore",
    "ObjectInfo",
    "ObjectRange",
    "ObjectStore",
    "RetryPolicy",
    "RetryingStore",
    "StoreWrapper",
    "connected",
    "is_lasting_url",
    "open_store",
    "url_forms",
]
