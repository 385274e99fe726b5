"""In write-back the state folder is lost with the appliance's system disk, after writes had bypassed the log.

The file that said so was in that folder. Nothing tells whether log or disks are right, so the domain is refused, says
why, and has two ways out. Each of them ends well, and stays well.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.errors import GenerationMismatch
from tests.domain.fixture import recovered
from tests.domain.hosted import DISK_BYTES, Drva, Machine, gaps, machine, until

COPY, REPLAY = jetdr.OnMismatch.COPY, jetdr.OnMismatch.REPLAY


@pytest.fixture
def lost(peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine(write_back=True) as made:
        bypass_the_log(made)
        for folder in ("run", "state"):
            shutil.rmtree(made.folder / folder)
        (made.folder / "run").mkdir(mode=0o700)
        yield made


def bypass_the_log(made: Machine) -> None:
    """The log has A, which the store lacks. The guest has flushed C since, past the log. Then power is lost."""
    with Drva(made, "create") as drva:
        drva.ask("equal")
        drva.ask("pause")
        with made.client() as guest:
            guest.write(0, b"A" * 4096)
            guest.flush()
        drva.ask("applied")
        drva.kill()
    with made.client() as guest:
        until(lambda: wrote(guest, os.urandom(4096)) and made.bypassed.exists())
        guest.write(0, b"C" * 4096)
        guest.flush()
    made.kill_host()
    assert made.primary().read_bytes()[:4096] == b"C" * 4096


def wrote(guest: Any, data: bytes) -> bool:
    guest.write(8192, data)
    guest.flush()
    return True


def test_it_is_refused_as_often_as_it_is_tried_and_says_what_to_do(lost: Machine) -> None:
    before, log = lost.primary().read_bytes(), lost.log.read_bytes()
    for _ in range(2):
        with pytest.raises(GenerationMismatch) as caught:
            asyncio.run(opened(lost))
        assert str(caught.value).startswith(
            "domain 'vm': the log cannot be replayed on its own word: the state folder is missing, or is not the one "
            "that the log relies on; bring back the newest log, store, state folder and disks. If they are lost, open"
        )
        assert "on_mismatch 'copy', which keeps the disks as they are" in str(caught.value)
        assert "with 'replay', which writes the log over the disks" in str(caught.value)
        assert caught.value.facts == {"store": "AGREES", "state_folder": "MISSING", "disks": "AGREES"}
        assert lost.primary().read_bytes() == before
        assert lost.log.read_bytes() == log


@pytest.mark.parametrize("choice", [COPY, REPLAY], ids=lambda choice: choice.value)
def test_each_way_out_ends_well_and_stays_well(lost: Machine, choice: jetdr.OnMismatch) -> None:
    before = lost.primary().read_bytes()
    assert asyncio.run(opened(lost, "chosen", on_mismatch=choice)) == 1
    held = lost.primary().read_bytes()
    if choice is COPY:
        assert held == before
    else:
        assert held[:4096] == b"A" * 4096
        assert held[16384:] == before[16384:]
    assert asyncio.run(recovered(lost.store, "chosen"))["db01"] == held
    assert asyncio.run(opened(lost, "at rest")) == 1  # no other gap
    lose_power(lost)
    assert (
        asyncio.run(opened(lost, "replayed")) == 1
    )  # the log is replayed again, since the new state folder vouches for it
    held = lost.primary().read_bytes()
    assert held[:4096] == b"N" * 4096
    assert len(held) == DISK_BYTES
    assert asyncio.run(recovered(lost.store, "replayed"))["db01"] == held


async def opened(made: Machine, mark: str = "refused", **how: Any) -> int:
    """Open the domain until it is consistent, set a mark, and end in order. Returns how many gaps the history has."""
    async with made.open(**how) as domain:
        await asyncio.wait_for(domain.wait_consistent(), 20)
        found = len(gaps(domain))
        await domain.uploaded(domain.mark(mark).lsn)
        await domain.close(stop_host=True)
    return found


def lose_power(made: Machine) -> None:
    """After a flushed write that the store lacks, and with the ring lost."""
    with Drva(made, "open") as drva:
        drva.ask("wait")
        drva.ask("pause")
        with made.client() as guest:
            guest.write(0, b"N" * 4096)
            guest.flush()
        drva.kill()
    made.kill_host()
    shutil.rmtree(made.folder / "run")
    (made.folder / "run").mkdir(mode=0o700)
