"""Workers: the threads of an uploader. All of them yield to what guests wait for.

One thread reads the log and moves its tail, so both are one step at a time. Encoders compress a segment each, and hand
each compressed frame to a verifier, which decodes it again. A verifier waits for no other thread, so encoders never
deadlock. Encoders also compute the tags of a domain that has a key, which releases the GIL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from jetdr_core.domain_key import DomainKey
from jetdr_core.record import RecordBatch
from jetdr_core.segment import SegmentBody, build_body
from jetdr_core.uploader.priority import yield_to_guests

__all__ = ["Workers"]

T = TypeVar("T")


class Workers:
    """``count`` encoders and as many verifiers. ``verify``: decode every compressed frame before it is uploaded.

    ``domain_key`` is the key of the domain, if it has one.
    """

    def __init__(self, count: int, *, verify: bool, domain_key: DomainKey | None = None) -> None:
        self._verify = verify
        self._domain_key = domain_key
        self._reader = ThreadPoolExecutor(1, "jetdr-log-reader", yield_to_guests)
        self._encoders = ThreadPoolExecutor(count, "jetdr-encode", yield_to_guests)
        self._verifiers = ThreadPoolExecutor(count, "jetdr-verify", yield_to_guests)

    async def use_log(self, work: Callable[..., T], *arguments: object) -> T:
        """Return the result of ``work``, which waits for the log device."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work, *arguments)

    def encode(self, records: Sequence[RecordBatch]) -> asyncio.Future[SegmentBody]:
        """Begin to make the body of a segment of ``records``."""
        return asyncio.get_running_loop().run_in_executor(self._encoders, self._build, records)

    def give_up_encoding(self) -> None:
        """Begin nothing more to encode. What has begun ends by itself."""
        self._encoders.shutdown(wait=False, cancel_futures=True)

    async def close(self) -> None:
        """Return when every thread has ended."""
        for pool in (self._encoders, self._verifiers, self._reader):
            await asyncio.to_thread(pool.shutdown)

    def _build(self, records: Sequence[RecordBatch]) -> SegmentBody:
        content_key = None if self._domain_key is None else self._domain_key.new_content_key()
        return build_body(records, verify=self._verify, helper=self._verifiers, content_key=content_key)
