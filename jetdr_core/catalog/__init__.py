"""The catalog: what a domain's store holds, which recovery points it offers, and which segments they need.

Invariant: it is made from the store alone. Summaries and the metadata repository only make that quicker.
"""

from jetdr_core.catalog.at import At, check_mark_is_no_point
from jetdr_core.catalog.catalog import Authenticity, Catalog
from jetdr_core.catalog.chain import SETTLE_S, Chain, ChainBreak, ChainTail, read_chain, write_summaries
from jetdr_core.catalog.heartbeat import Heartbeat, decode_heartbeat, heartbeat
from jetdr_core.catalog.history import DiskState, DomainHistory, Gap, HistoryFacts
from jetdr_core.catalog.history_codec import HISTORY_BYTES_MAX, decode_history, encode_history
from jetdr_core.catalog.indexes import SegmentRead
from jetdr_core.catalog.keys import chain_key, chain_number, heartbeat_key, summary_key
from jetdr_core.catalog.links import LINK, LinkTable, chained
from jetdr_core.catalog.point import Interval, RecoveryPoint, iso_time
from jetdr_core.catalog.repository import MetadataRepository
from jetdr_core.catalog.summary import Summary, decode_summary, encode_summary
from jetdr_core.catalog.tail_loss import TailLoss

__all__ = [
    "HISTORY_BYTES_MAX",
    "LINK",
    "SETTLE_S",
    "At",
    "Authenticity",
    "Catalog",
    "Chain",
    "ChainBreak",
    "ChainTail",
    "DiskState",
    "DomainHistory",
    "Gap",
    "Heartbeat",
    "HistoryFacts",
    "Interval",
    "LinkTable",
    "MetadataRepository",
    "RecoveryPoint",
    "SegmentRead",
    "Summary",
    "TailLoss",
    "chain_key",
    "chain_number",
    "chained",
    "check_mark_is_no_point",
    "decode_heartbeat",
    "decode_history",
    "decode_summary",
    "encode_history",
    "encode_summary",
    "heartbeat",
    "heartbeat_key",
    "iso_time",
    "read_chain",
    "summary_key",
    "write_summaries",
]
