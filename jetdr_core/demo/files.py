"""The files of the demo's file system, and what happens to them: a month of office work, then an attack. Pure.

Invariant: every run makes the same files from the same seed, so that two runs can be compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["SHOWN", "STEPS_BEFORE_LSN", "Step", "attack", "files_at_first", "month"]

SHOWN = "ledger/summary.txt"
"""The file whose content is shown at each moment."""

STEPS_BEFORE_LSN = 16
"""The moment between the marks comes after this many steps of the attack."""

_ATTACKED = 32
_SEED = 20260131
_WORDS = ("account", "balance", "carried", "forward", "invoice", "paid", "received", "salary", "supplier", "total")

_OPENED = b"Ledger 2026\nJanuary: open\nBalance: 120,000.00\n"
_CLOSED = b"Ledger 2026\nJanuary: closed, 24 invoices booked\nBalance: 131,572.50\n"

Files = dict[str, bytes]
"""Content by path."""


class Step(NamedTuple):
    """One step of work, after which the file system is consistent: the files written or replaced, and those removed."""

    written: Files
    removed: tuple[str, ...] = ()

    def apply(self, files: Files) -> Files:
        """Return ``files`` after the step."""
        return {path: data for path, data in files.items() if path not in self.removed} | self.written


def files_at_first() -> Files:
    """Return state 1: a freshly installed application with its documents."""
    chance = random.Random(_SEED)
    files = {f"app/module-{n:02}.bin": chance.randbytes(384 << 10) for n in range(8)}
    files |= {f"docs/page-{n:02}.txt": _text(chance, 24 << 10) for n in range(36)}
    files |= {f"ledger/2025-{n:02}.csv": _text(chance, 48 << 10) for n in range(1, 13)}
    return files | {SHOWN: _OPENED}


def month() -> Iterator[Step]:
    """Return the steps from state 1 to state 2: invoices arrive, drafts are removed, the month is closed."""
    chance = random.Random(_SEED + 1)
    for n in range(24):
        written = {f"invoices/{n:03}.txt": _text(chance, chance.randrange(4 << 10, 40 << 10))}
        if n % 6 == 0:
            written[f"invoices/{n:03}.scan"] = chance.randbytes(256 << 10)
        yield Step(written, (f"docs/page-{n:02}.txt",) if n % 8 == 0 else ())
    yield Step({SHOWN: _CLOSED, "ledger/2026-01.csv": _text(chance, 64 << 10)})


def attack(files: Files) -> Iterator[Step]:
    """Return the steps from state 2 to state 3: noise of the same size replaces one file after the other."""
    chance = random.Random(_SEED + 2)
    victims = [path for path in sorted(files) if not path.startswith("app/") and path != SHOWN]
    for path in [*chance.sample(victims, _ATTACKED - 1), SHOWN]:
        yield Step({path: chance.randbytes(len(files[path]))})


def _text(chance: random.Random, size_bytes: int) -> bytes:
    lines = (" ".join(chance.choices(_WORDS, k=9)) + f" {chance.randrange(10**6):,}" for _ in range(size_bytes // 60))
    return "\n".join(lines).encode().ljust(size_bytes, b"\n")[:size_bytes]
