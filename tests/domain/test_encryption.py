"""An encrypted domain: whoever reads its container without the key learns neither content nor names."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.domain_key import KeyFile, KeyMode
from jetdr_core.errors import Forged, WrongKey
from tests.domain.fixture import DISK_BYTES, QUICK, fresh_store, image, log_device, new_domain

SECRETS = [b"password=correct", b"payroll", b"db01", b"before-the-merger", socket.gethostname().encode()]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    KeyFile(tmp_path / "key").make(mode=KeyMode.ENCRYPT)
    return tmp_path / "key"


def test_an_encrypted_domain_is_recovered_with_its_key_and_by_nobody_else(key_file: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        store, primary, log = fresh_store(), MemoryDevice(DISK_BYTES), log_device()
        async with new_domain(store, log=log, key_file=key_file) as domain:
            disk = await domain.protect("db01", primary)
            disk.write(0, (b"password=correct" + random.Random(1).randbytes(496)) * 8)
            domain.mark("before-the-merger")
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK, key_file=key_file
        ) as again:
            again.disk("db01").write(8192, b"more".ljust(512))
        key = KeyFile(key_file).read()
        whole = b"".join([await store.get(info.key) async for info in store.list_prefix("")])
        assert [secret for secret in SECRETS if secret in whole] == []
        assert (await jetdr.verify(store, domain_key=key)).is_sound
        await jetdr.rehydrate(store, at="latest", target=tmp_path / "out", format="raw", domain_key=key)
        assert (tmp_path / "out" / "db01.raw").read_bytes() == image(primary)
        for refused in (
            jetdr.Catalog.open(store),
            jetdr.verify(store),
            jetdr.rehydrate(store, at="latest", target=tmp_path / "none", format="raw"),
            jetdr.ProtectedDomain.open("payroll", log=log, store=store, options=QUICK).__aenter__(),
        ):
            with pytest.raises(WrongKey, match="is encrypted, and no key was given"):
                await refused
        assert not (tmp_path / "none").exists()

    asyncio.run(scenario())


def test_a_container_without_encryption_is_not_passed_off_as_the_encrypted_one(key_file: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        plain = fresh_store()
        KeyFile(tmp_path / "plain").make()
        async with new_domain(plain, key_file=tmp_path / "plain"):
            pass
        with pytest.raises(WrongKey):
            await jetdr.Catalog.open(plain, domain_key=KeyFile(key_file).read())
        without = fresh_store()
        async with new_domain(without):
            pass
        with pytest.raises(Forged, match="has no tag"):
            await jetdr.Catalog.open(without, domain_key=KeyFile(key_file).read())

    asyncio.run(scenario())
