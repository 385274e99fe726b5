"""The keys a domain's container holds; nothing else in it is ours."""

from __future__ import annotations

import re

from jetdr_core.limits import CHAIN_GROUP

_CHAIN = re.compile(r"chain/\d{8}/(\d{10})")
_SUMMARY = re.compile(r"catalog/(\d{8})")

NUMBER_DIGITS = 10
SUMMARY_PREFIX = "catalog/"


def chain_key(number: int) -> str:
    """Key of chain object ``number``."""
    return f"chain/{number // CHAIN_GROUP:08d}/{number:010d}"


def chain_prefix(group: int) -> str:
    """What the keys of a group's chain objects begin with."""
    return f"chain/{group:08d}/"


def chain_number(key: str) -> int | None:
    """The number of a chain object, or None for any other key."""
    match = _CHAIN.fullmatch(key)
    number = int(match[1]) if match else 0
    return number if number > 0 and chain_key(number) == key else None


def summary_key(group: int) -> str:
    """Key of the summary of a complete group."""
    return f"{SUMMARY_PREFIX}{group:08d}"


def summary_group(key: str) -> int | None:
    """The group that a summary's key names, or None for any other key."""
    match = _SUMMARY.fullmatch(key)
    return int(match[1]) if match else None


def heartbeat_key(epoch: int) -> str:
    """Key of the heartbeat of an epoch."""
    return f"heartbeat/{epoch:010d}"


def group_numbers(group: int) -> range:
    """All numbers of a group."""
    return range(max(1, group * CHAIN_GROUP), (group + 1) * CHAIN_GROUP)
