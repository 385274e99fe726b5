"""The whole path on real files and real stores: a directory, Azure Blob as Azurite serves it, and S3 as moto does."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import jetdr_core as jetdr
from jetdr_core.errors import StoreAccessDenied, StoreError
from tests.peers.azurite import Azurite
from tests.peers.s3_server import S3Server

DISK_BYTES = 16 << 20
OPTIONS = jetdr.DomainOptions(segment_bytes=1 << 20, segment_age_s=0.05)


@pytest.fixture(params=["directory", "azure", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a container that does not exist yet, or of an empty bucket."""
    if request.param == "directory":
        yield f"file://{tmp_path}/store"
        return
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        bucket = f"dr-{uuid4().hex}"
        server.put(f"/{bucket}")
        yield f"s3://{bucket}/payroll"
        return
    azurite: Azurite = request.getfixturevalue("azurite")
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    yield f"az://dr-{uuid4().hex}/payroll"


@pytest.mark.parametrize("form", ["flat", "stream", "raw"])
def test_disks_come_back_as_they_were(tmp_path: Path, url: str, form: str, peer: Callable[[str], str]) -> None:
    states: dict[str, dict[str, bytes]] = {}

    async def protect() -> None:
        chance = random.Random(form)
        async with jetdr.ProtectedDomain.create(
            "payroll", log=tmp_path / "log", log_bytes=64 << 20, store=url, options=OPTIONS
        ) as domain:
            (tmp_path / "old.img").write_bytes(chance.randbytes(DISK_BYTES // 2) + bytes(DISK_BYTES // 2))
            disks = [
                await domain.protect("db01", tmp_path / "old.img"),
                await domain.protect("web01", tmp_path / "new.img", size_bytes=DISK_BYTES),
            ]
            for name in ("first", "second", "third"):
                for disk in disks:
                    await asyncio.to_thread(scribble, disk, chance)
                domain.mark(name)
                states[name] = {disk.name: disk.read(0, DISK_BYTES) for disk in disks}
            await domain.uploaded(domain.status().lsn_reserved)

    async def recover() -> None:
        for name, state in states.items():
            target = tmp_path / name
            report = await jetdr.rehydrate(url, at=name, target=target, format=form)
            for disk in report.disks:
                assert raw_bytes(disk.path, peer("qemu-img")) == state[disk.name]
        verified = await jetdr.verify(url)
        assert verified.is_sound

    asyncio.run(protect())
    asyncio.run(recover())


def scribble(disk: jetdr.Disk, chance: random.Random) -> None:
    for _ in range(60):
        length = 512 * chance.choice([1, 8, 8, 128])
        offset = chance.randrange(0, (DISK_BYTES - length) // 512) * 512
        if chance.random() < 0.15:
            disk.zero(offset, length)
        else:
            disk.write(offset, chance.randbytes(512) * (length // 512))


def raw_bytes(path: os.PathLike[str] | str, qemu_img: str) -> bytes:
    """What an independent reader finds in a recovered disk."""
    if str(path).endswith(".raw"):
        return Path(path).read_bytes()
    raw = f"{path}.converted"
    subprocess.run([qemu_img, "convert", "-f", "vmdk", "-O", "raw", path, raw], check=True, timeout=60)
    return Path(raw).read_bytes()


def test_wrong_credentials_are_told_without_telling_them(
    tmp_path: Path, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_STORAGE_KEY", "d3JvbmcgY3JlZGVudGlhbHMgZm9yIHRoaXMgYWNjb3VudA==")

    async def scenario() -> None:
        domain = jetdr.ProtectedDomain.create(
            "payroll", log=tmp_path / "log", log_bytes=64 << 20, store=f"az://dr-{uuid4().hex}", options=OPTIONS
        )
        async with domain:
            pass

    with pytest.raises(StoreAccessDenied) as caught:
        asyncio.run(scenario())
    assert "d3Jvb" not in str(caught.value)
    assert not (tmp_path / "log").exists()


def test_a_store_without_permission_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file, not a directory")

    async def scenario() -> None:
        domain = jetdr.ProtectedDomain.create(
            "payroll", log=tmp_path / "log", log_bytes=64 << 20, store=f"file://{tmp_path}/store", options=OPTIONS
        )
        async with domain:
            pass

    with pytest.raises((StoreError, ValueError)):
        asyncio.run(scenario())
    assert not (tmp_path / "log").exists()
