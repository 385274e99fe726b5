"""Makes a store with one small disk in the folder that is named, and keeps the disk beside it to compare with."""

from __future__ import annotations

import asyncio
import os
import sys

import jetdr_core as jetdr


async def main(folder: str) -> None:
    async with jetdr.ProtectedDomain.create(
        "wheel", log=f"{folder}/log", log_bytes=16 << 20, store=f"file://{folder}/store"
    ) as domain:
        disk = await domain.protect("db01", f"{folder}/db01.img", size_bytes=8 << 20)
        disk.write(4096, os.urandom(1 << 20))
        disk.zero(65536, 65536)
        disk.flush()
        await domain.uploaded(domain.mark("end").lsn)


asyncio.run(main(sys.argv[1]))
