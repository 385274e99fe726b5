"""The keys of a domain's container. An object with any other key does not belong to the domain."""

from __future__ import annotations

import re
from uuid import UUID

from jetdr_core.limits import CHAIN_GROUP

_CHAIN = re.compile(r"chain/\d{8}/(\d{10})")
_HEARTBEAT = re.compile(r"heartbeat/(\d{10})")
_FEATURE = re.compile(r"format/([a-z0-9][a-z0-9-]{0,63})")
_SUMMARY = re.compile(r"catalog/(\d{8})")

NUMBER_DIGITS = 10
SUMMARY_PREFIX = "catalog/"
HEARTBEAT_PREFIX = "heartbeat/"
LEFT_PREFIX = "left/"
"""Before keys of objects that a lost domain left, and that stood in the way of the one that began anew."""
FORMAT_PREFIX = "format/"


def chain_key(number: int) -> str:
    """Key of chain object ``number``."""
    return f"chain/{number // CHAIN_GROUP:08d}/{number:010d}"


def chain_prefix(group: int) -> str:
    """The prefix of the keys of a group's chain objects."""
    return f"chain/{group:08d}/"


def chain_number(key: str) -> int | None:
    """The number of the chain object with that key, or None for any other key."""
    match = _CHAIN.fullmatch(key)
    number = int(match[1]) if match else 0
    return number if number > 0 and chain_key(number) == key else None


def summary_key(group: int) -> str:
    """Key of the summary of a complete group."""
    return f"{SUMMARY_PREFIX}{group:08d}"


def summary_group(key: str) -> int | None:
    """The group of the summary with that key, or None for any other key."""
    match = _SUMMARY.fullmatch(key)
    return int(match[1]) if match else None


def heartbeat_key(epoch: int) -> str:
    """Key of an epoch's heartbeat."""
    return f"{HEARTBEAT_PREFIX}{epoch:010d}"


def heartbeat_epoch(key: str) -> int | None:
    """The epoch of the heartbeat with that key, or None for any other key."""
    match = _HEARTBEAT.fullmatch(key)
    return int(match[1]) if match else None


def left_key(domain_uuid: UUID, key: str) -> str:
    """Key under which an object of the lost domain ``domain_uuid`` is set aside. ``key`` is the one that it had."""
    return f"{LEFT_PREFIX}{domain_uuid}/{key}"


def feature_key(feature: str) -> str:
    """Key of the marker of a feature of the format."""
    return f"{FORMAT_PREFIX}{feature}"


def feature_of(key: str) -> str | None:
    """The feature whose marker has that key, or None for any other key."""
    match = _FEATURE.fullmatch(key)
    return match[1] if match else None


def group_numbers(group: int) -> range:
    """All numbers of a group."""
    return range(max(1, group * CHAIN_GROUP), (group + 1) * CHAIN_GROUP)
