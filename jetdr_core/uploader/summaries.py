"""SummaryWriter: writes the catalog summary of a group of chain objects once the group is complete.

Invariants: summaries are advisory, so a failure to write one is logged, and never stops the upload. They are made from
the chain as the store holds it, not from memory.
"""

from __future__ import annotations

import asyncio
import logging

from jetdr_core.catalog import read_chain, write_summaries
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import JetdrError
from jetdr_core.limits import CHAIN_GROUP
from jetdr_core.store import ObjectStore

__all__ = ["SummaryWriter"]

log = logging.getLogger(__name__)


class SummaryWriter:
    """Is told by :meth:`on_segment` what is stored. Used in one event loop."""

    def __init__(self, store: ObjectStore, domain_key: DomainKey | None = None) -> None:
        self._store = store
        self._domain_key = domain_key
        self._task: asyncio.Task[None] | None = None

    def on_segment(self, number: int) -> None:
        """Note that chain object ``number`` is stored. Summarise in the background if it is the last of its group."""
        if (number + 1) % CHAIN_GROUP == 0 and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._summarise())

    async def stop(self) -> None:
        """Give up a summary that is not finished. The next complete group includes it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _summarise(self) -> None:
        try:
            await write_summaries(self._store, await read_chain(self._store, domain_key=self._domain_key))
        except JetdrError as error:
            log.warning("catalog summary not written: %s", error)
