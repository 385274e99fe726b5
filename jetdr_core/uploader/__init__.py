"""Ships the replication log to the store as an unbroken chain of segments."""

from jetdr_core.uploader.chain import ChainEnd, ChainWriter, ClaimLost
from jetdr_core.uploader.heartbeats import HeartbeatRefusal
from jetdr_core.uploader.lag import UploadLag
from jetdr_core.uploader.latency import LATENCY_BOUNDS_S, UploadLatency
from jetdr_core.uploader.patience import StoreRefusal
from jetdr_core.uploader.source import LogSource
from jetdr_core.uploader.summaries import SummaryWriter
from jetdr_core.uploader.uploader import Uploader, UploadStats

__all__ = [
    "LATENCY_BOUNDS_S",
    "ChainEnd",
    "ChainWriter",
    "ClaimLost",
    "HeartbeatRefusal",
    "LogSource",
    "StoreRefusal",
    "SummaryWriter",
    "UploadLag",
    "UploadLatency",
    "UploadStats",
    "Uploader",
]
