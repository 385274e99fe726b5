"""TailLoss: the chain has lost its end, and an object that is still there says so.

The numbers of the chain cannot tell that: without its newest objects, a chain looks like one that was never longer. But
the owner leaves objects that speak of the chain, and writes them only after what they speak of. So a heartbeat or a
summary of the chain's own epoch that knows a higher LSN vouches for objects that are gone.

Invariant: what vouches changes nothing that can be recovered. It is reported, and not followed.
"""

from __future__ import annotations

from typing import NamedTuple

from jetdr_core.catalog.advisory import read_advisory
from jetdr_core.catalog.chain import Chain
from jetdr_core.catalog.heartbeat import Heartbeat
from jetdr_core.catalog.keys import heartbeat_key, summary_key
from jetdr_core.catalog.links import chained
from jetdr_core.catalog.point import iso_time
from jetdr_core.catalog.summary import SUMMARY_BYTES_MAX, decode_summary
from jetdr_core.store import ObjectStore

__all__ = ["TailLoss", "find_tail_loss"]


class TailLoss(NamedTuple):
    """The object ``key`` says that the store held ``lsn_last``, captured or known at ``time_ns``."""

    key: str
    lsn_last: int
    time_ns: int

    def __str__(self) -> str:
        when = iso_time(self.time_ns)
        return f"the newest objects are lost: {self.key} says that the store held LSN {self.lsn_last} at {when}"


async def find_tail_loss(store: ObjectStore, chain: Chain, beat: Heartbeat | None) -> TailLoss | None:
    """What vouches for more than ``chain`` holds. A chain with a break has lost something in any case.

    ``beat`` is a heartbeat that was read before the chain was.
    """
    if chain.chain_break is not None:
        return None
    found = [_of_heartbeat(beat)] if beat is not None and beat.epoch == chain.tail.epoch else []
    if chain.group_vouched is not None:
        found += await _of_summary(store, chain, chain.group_vouched)
    lost = [loss for loss in found if loss.lsn_last > chain.tail.lsn_last]
    return max(lost, key=lambda loss: loss.lsn_last, default=None)


def _of_heartbeat(beat: Heartbeat) -> TailLoss:
    return TailLoss(heartbeat_key(beat.epoch), beat.lsn, beat.time_ns)


async def _of_summary(store: ObjectStore, chain: Chain, group: int) -> list[TailLoss]:
    summary = await read_advisory(
        store,
        summary_key(group),
        lambda data: decode_summary(data, group, with_control=False, domain_key=chain.domain_key),
        SUMMARY_BYTES_MAX,
    )
    if summary is None or summary.domain_uuid != chain.domain_uuid:
        return []
    last = chained(summary.links)[-1]
    if int(last["epoch"]) != chain.tail.epoch:
        return []
    return [TailLoss(summary_key(group), int(last["last_lsn"]), int(last["last_time_ns"]))]
