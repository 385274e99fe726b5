"""``./check soak``: soaks with one seed after the other, for some minutes. docs/contributing.md lists the checks."""

from __future__ import annotations

import argparse
import random
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SEED_S = 45.0
"""About how long the episodes of one seed last before the next seed has its turn."""


def main() -> int:
    sys.modules["tests"] = tests = ModuleType("tests")
    tests.__path__ = [str(ROOT / "tests")]
    from tests.soak.soak import SoakFailed, soak  # noqa: PLC0415 - tests is importable only now

    parser = argparse.ArgumentParser(
        prog="./check soak", description="The whole product under load, kills and outages."
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="about how long to run (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="only this seed (default: one seed after the other)")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a soak that fails")
    parser.add_argument("--verbose", action="store_true", help="print every step")
    chosen = parser.parse_args()
    say = partial(print, flush=True) if chosen.verbose else _silent
    begun = time.monotonic()
    seed = random.SystemRandom().randrange(1 << 20) if chosen.seed is None else chosen.seed
    while (left_s := chosen.minutes * 60 - (time.monotonic() - begun)) > 0:
        seconds = left_s if chosen.seed is not None else min(left_s, SEED_S)
        try:
            print(soak(seed, seconds, say=say, keep=chosen.keep), flush=True)
        except SoakFailed as failed:
            print(failed, file=sys.stderr, flush=True)
            return 1
        if chosen.seed is not None:
            break
        seed += 1
    return 0


def _silent(_line: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
