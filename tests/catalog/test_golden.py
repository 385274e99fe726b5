"""Summaries and heartbeats that released versions wrote are read as they were meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetdr_core.catalog import Heartbeat, decode_heartbeat, decode_summary
from jetdr_core.errors import DamagedObject, UnsupportedVersion
from tests.catalog.chains import DOMAIN, time_ns
from tests.catalog.golden import FOLDER

SUMMARIES = sorted(FOLDER.glob("chain-summary-*.bin"))
HEARTBEATS = sorted(FOLDER.glob("chain-heartbeat-*.bin"))


@pytest.mark.parametrize("path", SUMMARIES, ids=lambda path: path.name)
def test_released_summary_is_read(path: Path) -> None:
    summary = decode_summary(path.read_bytes(), 0)
    assert (summary.domain_uuid, summary.predecessor, len(summary.links)) == (DOMAIN, bytes(16), 1023)
    assert summary.links["kind"].tolist() == [2] + [1] * 1022
    assert summary.links["last_lsn"].tolist() == list(range(1023))
    assert summary.links["last_time_ns"][1:].tolist() == [time_ns(lsn) for lsn in range(1, 1023)]
    assert [(record.lsn, record.kind.name) for record in summary.control] == [(1, "DISK_ADD"), (2, "MARK")]


@pytest.mark.parametrize("path", HEARTBEATS, ids=lambda path: path.name)
def test_released_heartbeat_is_read(path: Path) -> None:
    assert decode_heartbeat(path.read_bytes(), "heartbeat") == Heartbeat(7, 1234567, time_ns(5))


def test_every_flipped_bit_of_a_heartbeat_is_found() -> None:
    data = HEARTBEATS[0].read_bytes()
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises((DamagedObject, UnsupportedVersion), match="heartbeat"):
            decode_heartbeat(damaged, "heartbeat")


def test_there_are_golden_files() -> None:
    assert SUMMARIES
    assert HEARTBEATS
