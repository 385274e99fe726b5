"""The domain of the CLI tests: two disks, two marks, a gap and three segments in a directory store."""

from __future__ import annotations

from pathlib import Path

import xxhash

from jetdr_core.record import Kind
from jetdr_core.store import DirectoryStore
from tests.rehydrate.chains import Chain

SIZE_BYTES = 256 << 10

LSN_BEFORE, LSN_GAP, LSN_CLOSED, LSN_AFTER, LSN_LAST = 6, 8, 10, 12, 12
"""The mark "before upgrade", the first LSN of the gap and the first after it, the mark "after upgrade", the end."""


class Payroll:
    """The domain's store, its chain, and ways to damage it. Object 1 is the epoch object, 2 to 4 are segments."""

    def __init__(self, path: Path, chain: Chain) -> None:
        self.path = path
        self.chain = chain
        self.url = path.as_uri()

    def object(self, number: int) -> Path:
        return self.path / self.chain.keys[number - 1]

    def flip(self, number: int, offset: int) -> None:
        """Flip a bit of an object. A negative offset counts from its end."""
        data = bytearray(self.object(number).read_bytes())
        data[offset] ^= 1
        self._put(number, data)

    def renew(self, number: int) -> None:
        """Make an object claim a newer format, under a correct checksum."""
        data = bytearray(self.object(number).read_bytes())
        trailer = data[-256:]
        trailer[8:10] = (99).to_bytes(2, "little")
        trailer[-8:] = xxhash.xxh3_64_intdigest(trailer[:-8]).to_bytes(8, "little")
        self._put(number, data[:-256] + trailer)

    def _put(self, number: int, data: bytearray) -> None:
        self.object(number).unlink()
        self.object(number).write_bytes(data)


async def build_payroll(path: Path) -> Payroll:
    store = DirectoryStore(path, create=True)
    chain = Chain(store)
    await chain.begin()
    chain.add_disk(1, "db01", SIZE_BYTES)
    chain.add_disk(2, "web01", SIZE_BYTES)
    chain.control(Kind.CONFIG, name="db01.vmx", text="memsize = 4096\n")
    chain.write(1, 0, b"a" * 4096)
    chain.write(2, 0, b"w" * 4096)
    chain.mark("before upgrade")
    await chain.seal()
    chain.write(1, 65536, bytes(range(256)) * 64)
    chain.control(Kind.GAP_OPEN, reason="unclean stop")
    chain.write(1, 4096, b"b" * 4096)
    chain.control(Kind.GAP_CLOSE)
    await chain.seal()
    chain.write(1, 8192, b"c" * 4096)
    chain.mark("after upgrade")
    await chain.seal()
    await store.close()
    return Payroll(path, chain)
