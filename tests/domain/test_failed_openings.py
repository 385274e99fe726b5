"""An opening owes a gap and fails before that gap is durable: the next opening still owes it, whatever else happens."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.hosting import hosted_mode, resumption, witnesses
from jetdr_core.domain.hosting.resumption import HostedResumption
from jetdr_core.errors import DeviceFull, GenerationMismatch, InvalidRequest
from jetdr_core.replication_log import ReplicationLog
from tests.domain.fixture import QUICK, recovered
from tests.domain.hosted import Drva, Machine, machine
from tests.peers.loop import needs_root

COPY, REPLAY = jetdr.OnMismatch.COPY, jetdr.OnMismatch.REPLAY
BACK = {"write_back": True}
THROUGH = {"write_back": False}


@pytest.fixture
def made(peer: Callable[[str], str], request: pytest.FixtureRequest) -> Iterator[Machine]:
    peer("nbdkit")
    with machine(**getattr(request, "param", BACK)) as one:
        yield one


def run(made: Machine, how: str, text: bytes, *, in_order: bool = False) -> None:
    """Write, with the upload paused, so that the log alone holds it. Then lose power, or end in order."""
    with Drva(made, how) as drva:
        drva.ask("equal" if how == "create" else "wait")  # the store has the disk, and nothing newer
        drva.ask("pause")
        with made.client() as guest:
            guest.write(0, text * 4096)
            guest.flush()
        drva.ask("applied")
        if in_order:
            drva.close(stop_host=True)
            return
        drva.kill()
    made.kill_host()
    lose_runtime_folder(made)


def lose_runtime_folder(made: Machine) -> None:
    shutil.rmtree(made.folder / "run")
    (made.folder / "run").mkdir(mode=0o700)


def unprotected_guest_writes(made: Machine, text: bytes, offset: int = 0) -> None:
    with made.primary().open("r+b") as primary:
        primary.seek(offset)
        primary.write(text * 4096)


def fail(*_: object, **__: object) -> None:
    raise OSError(5, "the machine fails")


FAILING = {"as the gap is logged": (hosted_mode, "log_bypass_gap"), "as the log is begun": (ReplicationLog, "begin")}
WHILE_REPLAYING = {"as the log is replayed": (resumption, "replay"), "after the replay": (HostedResumption, "_ring")}


def fails_to_open(domain: Callable[[], jetdr.HostedDomain], at: tuple[object, str]) -> None:
    async def scenario() -> None:
        async with domain():
            pass

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="the machine fails"):
        patch.setattr(*at, fail)
        asyncio.run(scenario())


def opens_with_a_gap(made: Machine, expected: bytes, **how: Any) -> None:
    """The primary is as it was, and the replica equals it."""

    async def scenario() -> None:
        async with made.open(**how) as domain:
            assert domain._alive.control_log.history.gaps
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert not made.bypassed.exists()
            await domain.uploaded(domain.mark("after").lsn)
            await domain.close(stop_host=True)

    asyncio.run(scenario())
    held = made.primary().read_bytes()
    assert held[:4096] == expected * 4096
    assert asyncio.run(recovered(made.store, "after"))["db01"] == held


@pytest.mark.parametrize("power_is_lost", [True, False])
def test_disks_that_were_chosen_are_not_overwritten_after_all(made: Machine, power_is_lost: bool) -> None:
    run(made, "create", b"A")
    shutil.copy(made.log, made.folder / "older")
    run(made, "open", b"B")
    shutil.copy(made.folder / "older", made.log)
    fails_to_open(lambda: made.open(on_mismatch=COPY), FAILING["as the gap is logged"])
    if power_is_lost:
        lose_runtime_folder(made)
    opens_with_a_gap(made, b"B")


def test_a_log_that_was_chosen_at_last_is_replayed_and_nothing_says_otherwise(made: Machine) -> None:
    run(made, "create", b"A")
    shutil.copy(made.log, made.folder / "older")
    run(made, "open", b"B")
    shutil.copy(made.folder / "older", made.log)
    fails_to_open(lambda: made.open(on_mismatch=COPY), FAILING["as the log is begun"])
    assert made.bypassed.exists()

    async def scenario() -> None:
        async with made.open(on_mismatch=REPLAY) as domain:
            assert not made.bypassed.exists()
            await domain.close(stop_host=True)

    asyncio.run(scenario())
    assert made.primary().read_bytes()[:4096] == b"A" * 4096


def use_an_older_log(made: Machine) -> None:
    """The primary has what the log lacks, also where the log has nothing."""
    run(made, "create", b"A")
    shutil.copy(made.log, made.folder / "older")
    run(made, "open", b"B")
    unprotected_guest_writes(made, b"Z", offset=64 << 10)
    shutil.copy(made.folder / "older", made.log)


def test_a_replay_that_was_chosen_leaves_nothing_that_only_the_disks_have(made: Machine) -> None:
    use_an_older_log(made)
    opens_with_a_gap(made, b"A", on_mismatch=REPLAY)


def is_refused_because(made: Machine, reason: str) -> None:
    with pytest.raises(GenerationMismatch, match=reason):
        asyncio.run(opened_and_closed(made))


CUT_OFF = r"the replay that somebody chose was cut off.*'copy'.*'replay'"


@pytest.mark.parametrize("carries_stamps", [True, False])
@pytest.mark.parametrize("at", WHILE_REPLAYING.values(), ids=WHILE_REPLAYING)
@pytest.mark.parametrize("then", [COPY, REPLAY], ids=lambda choice: choice.value)
def test_a_replay_that_was_chosen_and_cut_off_is_chosen_again(
    made: Machine,
    monkeypatch: pytest.MonkeyPatch,
    carries_stamps: bool,
    at: tuple[object, str],
    then: jetdr.OnMismatch,
) -> None:
    monkeypatch.setattr(witnesses, "can_carry_stamp", lambda _: carries_stamps)  # a block device carries none
    use_an_older_log(made)
    fails_to_open(lambda: made.open(on_mismatch=REPLAY), at)
    lose_runtime_folder(made)
    is_refused_because(made, CUT_OFF)
    opens_with_a_gap(made, b"A" if then is REPLAY or at[1] == "_ring" else b"B", on_mismatch=then)


def test_a_replay_that_was_chosen_and_ended_is_not_done_again(made: Machine) -> None:
    use_an_older_log(made)
    fails_to_open(lambda: made.open(on_mismatch=REPLAY), FAILING["as the gap is logged"])
    lose_runtime_folder(made)
    unprotected_guest_writes(made, b"Y")
    opens_with_a_gap(made, b"Y")


@pytest.mark.parametrize("made", [BACK, THROUGH], indirect=True, ids=["back", "through"])
@pytest.mark.parametrize("where", FAILING)
@pytest.mark.parametrize("power_is_lost", [True, False])
def test_a_disk_that_was_changed_is_resynced(made: Machine, where: str, power_is_lost: bool) -> None:
    run(made, "create", b"A", in_order=True)
    unprotected_guest_writes(made, b"Z")
    fails_to_open(made.open, FAILING[where])
    if power_is_lost:
        lose_runtime_folder(made)
    opens_with_a_gap(made, b"Z")


@pytest.mark.parametrize("lost", ["generation", "."])
def test_a_state_folder_that_was_lost_at_rest_is_made_anew_although_an_opening_fails(made: Machine, lost: str) -> None:
    run(made, "create", b"A", in_order=True)
    place = made.folder / "state/vm" / lost
    shutil.rmtree(place) if lost == "." else place.unlink()
    for _ in range(2):
        fails_to_open(made.open, FAILING["as the log is begun"])
    asyncio.run(opened_and_closed(made))


@pytest.mark.parametrize("made", [BACK, THROUGH], indirect=True, ids=["back", "through"])
def test_after_a_take_over_with_a_new_log_the_disks_are_resynced(made: Machine) -> None:
    run(made, "create", b"A")
    Path(made.log).unlink()
    fails_to_open(made.take_over, FAILING["as the gap is logged"])
    opens_with_a_gap(made, b"A")


def test_an_embedded_domain_resyncs_a_disk_that_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, url = tmp_path / "disk", (tmp_path / "store").as_uri()
    disk.write_bytes(bytes(64 << 10))
    (tmp_path / "store").mkdir()
    place: dict[str, Any] = {"log": tmp_path / "log", "store": url, "options": QUICK}

    async def scenario() -> None:
        async with jetdr.ProtectedDomain.create("d", log_bytes=4 << 20, **place) as domain:
            await domain.protect("a", disk)
            await domain.uploaded(domain.mark("first").lsn)
        disk.write_bytes(b"Z" * (64 << 10))
        with monkeypatch.context() as patch, pytest.raises(OSError, match="the machine fails"):
            patch.setattr(ControlLog, "open_gap", fail)
            async with jetdr.ProtectedDomain.open("d", disks={"a": disk}, **place):
                pass
        async with jetdr.ProtectedDomain.open("d", disks={"a": disk}, **place) as domain:
            await asyncio.wait_for(domain.wait_consistent(), 20)
            await domain.uploaded(domain.mark("after").lsn)
        assert (await recovered(url, "after"))["a"] == disk.read_bytes()

    asyncio.run(scenario())


@pytest.mark.parametrize("made", [BACK], indirect=True)
def test_a_full_state_folder_is_named_before_the_domain_is_claimed(made: Machine) -> None:
    needs_root()
    run(made, "create", b"A", in_order=True)
    claims = sorted(path.name for path in (made.folder / "store").rglob("*"))
    state = made.folder / "state"
    shutil.move(state, made.folder / "kept")
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k,mode=700", "tmpfs", str(state)], check=True)
    try:
        shutil.copytree(made.folder / "kept", state, dirs_exist_ok=True)
        with suppress(OSError):
            (state / "fill").write_bytes(bytes(64 << 10))
        with pytest.raises(
            DeviceFull, match=r"generation: noting the generation failed: no room .*free space on that file system$"
        ):
            asyncio.run(opened_and_closed(made))
        assert sorted(path.name for path in (made.folder / "store").rglob("*")) == claims
        (state / "fill").unlink()
        asyncio.run(opened_and_closed(made))
    finally:
        subprocess.run(["umount", "--lazy", str(state)], check=True)


def test_a_disk_whose_stamp_has_no_place_is_named_before_the_domain_is_claimed(
    made: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(made, "create", b"A", in_order=True)
    claims = sorted(path.name for path in (made.folder / "store").rglob("*"))
    in_the_way = Path(f"{made.primary()}.jetdr")
    in_the_way.write_bytes(b"a virtual machine")
    with monkeypatch.context() as patch, pytest.raises(InvalidRequest, match=r"\.jetdr has the name of the stamp"):
        patch.setattr(os, "getxattr", no_attributes)
        patch.setattr(os, "setxattr", no_attributes)
        asyncio.run(opened_and_closed(made))
    assert sorted(path.name for path in (made.folder / "store").rglob("*")) == claims
    assert in_the_way.read_bytes() == b"a virtual machine"
    asyncio.run(opened_and_closed(made))


def no_attributes(*_: object) -> None:
    raise OSError(95, "Operation not supported")


async def opened_and_closed(made: Machine) -> None:
    async with made.open() as domain:
        assert domain.consistent
        await domain.close(stop_host=True)
