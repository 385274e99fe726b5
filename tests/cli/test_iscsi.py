"""The commands on a log volume on a LUN."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

import jetdr_core as engine
from jetdr_core.identity import host_owner
from jetdr_core.replication_log import describe_volume, open_volume
from tests.cli.jetdr_command import jetdr
from tests.peers.tgt import Lun, Tgt

SECRET = "correct-horse-battery"
STRANGER = UUID(int=99)


@pytest.fixture
def lun(tgt: Tgt, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lun]:
    made = tgt.add(96 << 20, user="backup", password=SECRET)
    monkeypatch.setenv("JETDR_ISCSI_PASSWORD", SECRET)
    yield made
    tgt.remove(made)


def test_status_and_inspect_read_a_log_on_a_lun(lun: Lun, tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"

    async def protect() -> None:
        (tmp_path / "store").mkdir()
        async with engine.ProtectedDomain.create("payroll", log=lun.url, log_bytes=32 << 20, store=store) as domain:
            disk = await domain.protect("db01", tmp_path / "db01.img", size_bytes=1 << 20)
            disk.write(0, b"x" * 4096)
            await domain.uploaded(disk.flush())

    asyncio.run(protect())
    inspected = jetdr("inspect", lun.url)
    assert (inspected.code, inspected.err) == (0, "")
    assert "payroll" in inspected.out
    told = jetdr("status", store, "--log", lun.url, "--json")
    assert (told.code, told.json["log_ahead"]) == (0, {"lsns": 0, "meet": True})
    assert SECRET not in inspected.out + told.out


def test_volume_of_another_owner_is_taken_over_with_its_uuid_only(lun: Lun) -> None:
    open_volume(lun.url, owner=STRANGER, create=True).close()
    wrong = jetdr("take-over-volume", lun.url, "--from", UUID(int=7))
    assert wrong.code == 2
    assert f"belongs to owner {STRANGER}" in wrong.err
    assert describe_volume(lun.url).owner == STRANGER
    said = jetdr("take-over-volume", lun.url, "--from", STRANGER)
    assert (said.code, said.err) == (0, "")
    assert describe_volume(lun.url).owner == host_owner()
    again = jetdr("take-over-volume", lun.url, "--from", host_owner(), "--to", STRANGER)
    assert again.code == 0
    assert describe_volume(lun.url).owner == STRANGER


def test_owner_that_is_no_uuid_is_refused(lun: Lun) -> None:
    said = jetdr("take-over-volume", lun.url, "--from", "me")
    assert said.code == 2
    assert "is not a UUID" in said.err


def test_file_volume_is_taken_over_too(tmp_path: Path) -> None:
    open_volume(tmp_path / "log", owner=STRANGER, create=True).close()
    assert jetdr("take-over-volume", tmp_path / "log", "--from", STRANGER).code == 0
    open_volume(tmp_path / "log", owner=host_owner()).close()


def test_volume_in_use_is_not_taken_over(lun: Lun) -> None:
    with open_volume(lun.url, owner=STRANGER, create=True):
        said = jetdr("take-over-volume", lun.url, "--from", STRANGER)
    assert said.code == 3
    assert "in use by another process" in said.err


def test_wrong_password_missing_target_and_bad_url_end_in_one_line(lun: Lun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETDR_ISCSI_PASSWORD", "guessed-in-vain")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        nobody = reserved.getsockname()[1]
    for url, code, words in (
        (lun.url, 3, "user and password"),
        (f"iscsi://127.0.0.1:{nobody}/{lun.target}/1", 3, "there is no portal"),
        (f"iscsi://backup:{SECRET}@127.0.0.1/{lun.target}/1", 2, "password"),
        ("iscsi://127.0.0.1/disk", 2, "does not name a LUN"),
    ):
        said = jetdr("inspect", url)
        assert said.code == code
        assert words in said.err
        assert len(said.err.splitlines()) == 1
        assert SECRET not in said.err
        assert "guessed" not in said.err
