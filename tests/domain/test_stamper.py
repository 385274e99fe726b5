"""Disks get their stamps while guests are served, so a disk that does not answer holds up nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.domain.disk_identity import read_stamp, write_stamp
from jetdr_core.domain.generation import UNKNOWN_ID, Generation
from jetdr_core.domain.hosting import stamper, witnesses
from jetdr_core.domain.hosting.generation_file import GenerationFile, StateRecord
from jetdr_core.domain.hosting.stamper import Stamper
from jetdr_core.domain.hosting.witnesses import Witnesses
from jetdr_core.errors import InvalidRequest
from tests.domain.hosted import Drva, Machine, gaps, machine, until

FIRST = Generation(1, bytes([1]) * 16)


class Hanging:
    """Stamps of ``path`` do not end before :meth:`answer`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._answers = threading.Event()
        self.is_asked = threading.Event()

    def __call__(self, path: str, generation: Generation) -> None:
        if path == self._path:
            self.is_asked.set()
            assert self._answers.wait(60)
        write_stamp(path, generation)

    def answer(self) -> None:
        self._answers.set()


@pytest.fixture
def disks(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(bytes(512))
    return [str(path) for path in paths]


@pytest.fixture
def hanging(disks: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    one = Hanging(disks[0])
    monkeypatch.setattr(witnesses, "write_stamp", one)
    yield one
    one.answer()


def begun(folder: Path, disks: list[str]) -> Witnesses:
    one = Witnesses(folder, Generation(0), UNKNOWN_ID, Generation(0))
    one.claiming(FIRST)
    one.begin(disks)
    return one


def noted(folder: Path) -> StateRecord:
    record = GenerationFile(folder).read()
    assert record is not None
    return record


def test_a_disk_that_hangs_leaves_the_others_their_stamps(tmp_path: Path, disks: list[str], hanging: Hanging) -> None:
    one = Stamper("d", begun(tmp_path, disks))
    assert set(noted(tmp_path).unstamped) == set(disks)
    one.start()
    until(lambda: noted(tmp_path).unstamped == (disks[0],))
    assert [read_stamp(disk) for disk in disks] == [None, FIRST, FIRST]
    assert not one.failure
    hanging.answer()
    until(lambda: not noted(tmp_path).unstamped)
    assert read_stamp(disks[0]) == FIRST
    one.close()


def test_a_disk_that_hangs_is_reported_and_holds_up_no_end(
    tmp_path: Path, disks: list[str], hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamper, "PATIENCE_S", 0.0)
    monkeypatch.setattr(stamper, "CLOSE_LIMIT_S", 0.1)
    served = begun(tmp_path, disks)
    one = Stamper("d", served)
    one.start()
    until(lambda: noted(tmp_path).unstamped == (disks[0],))
    assert one.failure == f"{disks[0]} does not answer"
    one.close()
    served.leave()
    before = GenerationFile(tmp_path).path.read_bytes()
    hanging.answer()
    until(lambda: not one.failure)
    assert GenerationFile(tmp_path).path.read_bytes() == before


def test_a_disk_that_takes_no_stamp_is_reported(
    tmp_path: Path, disks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnesses, "write_stamp", failing)
    one = Stamper("d", begun(tmp_path, disks))
    one.start()
    until(lambda: one.failure.count("Input/output error") == 3)
    one.close()
    assert set(noted(tmp_path).unstamped) == set(disks)


def failing(*_: object) -> None:
    raise OSError(5, "Input/output error")


@pytest.fixture
def made(peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine(write_back=True) as one:
        yield one


def state(made: Machine) -> StateRecord:
    return noted(made.folder / "state/vm")


def test_a_disk_that_hangs_holds_up_no_restart(made: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host component lives on: its guests wait for the log, which is drained although the disk is not stamped."""
    with Drva(made, "create") as drva:
        drva.ask("equal")
        drva.kill()
    hanging = Hanging(str(made.primary()))
    monkeypatch.setattr(witnesses, "write_stamp", hanging)

    async def scenario() -> None:
        async with made.open() as domain:
            with made.client() as guest:
                await asyncio.to_thread(guest.write, 0, b"N" * 4096)
                await asyncio.to_thread(guest.flush)
            assert hanging.is_asked.is_set()
            assert domain.consistent
            assert not gaps(domain)
            assert state(made).unstamped == (str(made.primary()),)
            assert state(made).last == read_back(domain)
            hanging.answer()
            await asyncio.to_thread(until, lambda: not state(made).unstamped)
            await domain.close(stop_host=True)

    try:
        asyncio.run(asyncio.wait_for(scenario(), 30))
    finally:
        hanging.answer()
    assert read_stamp(str(made.primary())) == state(made).last


def read_back(domain: jetdr.HostedDomain) -> Generation:
    return Generation.of_log(domain._alive.parts.log)


def test_a_disk_that_takes_no_stamp_is_served(made: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with Drva(made, "create") as drva:
        drva.ask("equal")
        drva.close(stop_host=True)
    for _ in range(2):
        monkeypatch.setattr(witnesses, "write_stamp", failing)

        async def scenario() -> None:
            async with made.open() as domain:
                await asyncio.to_thread(until, lambda: domain.status().host.unstamped)  # type: ignore[union-attr]
                assert domain.consistent
                await domain.close(stop_host=True)

        asyncio.run(scenario())


def test_a_disk_that_comes_back_after_its_domain_has_ended_keeps_its_newer_stamp(
    disks: list[str], tmp_path: Path
) -> None:
    """Whoever looks for a failed disk may hang with its file system until the domain was opened again."""
    ended = begun(tmp_path, disks)
    ended.end_stamps()
    newer = Generation(2, bytes([2]) * 16)
    write_stamp(disks[0], newer)
    with pytest.raises(InvalidRequest, match="is being closed"):
        ended.admit(disks[0])
    assert read_stamp(disks[0]) == newer
