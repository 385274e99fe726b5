"""Power is lost at any step: each region in which primary and durable log then differ is owed a copy.

Sidecar, primary and log lose, keep or tear what was not flushed, each on its own. After the crash the map must name
every region that differs, or not be believed. A copy of what it names makes primary and replica equal.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from jetdr_core._core import MapFound, MapStart
from tests.core.map_rig import REGION, REGIONS, SIZE, Left, Life, differing_regions, owed_regions

SEEDS = 60
LIVES = 4


def work(life: Life, chance: random.Random, steps: int) -> None:
    """Do what guests, log writer, resync and the clearing of the map do, in any order."""
    for _ in range(steps):
        step = chance.choices(
            ("write", "zero", "commit", "flush", "sync", "tend", "copy"), weights=(30, 4, 12, 6, 4, 24, 12)
        )[0]
        if step in ("write", "zero"):
            length = chance.choice([512, 4096, 9 * 512])
            offset = min(chance.randrange(SIZE // REGION + 1) * REGION + chance.randrange(8) * 512, SIZE - length)
            if step == "write":
                life.disk.write(offset, bytes([chance.randrange(256)]) * length)
            else:
                life.disk.zero(offset, chance.choice([length, SIZE - offset]))
        elif step == "commit":
            life.rig.writer.commit()
        elif step == "flush":
            life.flush()
        elif step == "sync":
            life.left.primary.sync()
        elif step == "tend":
            life.disk.tend_map()
        else:
            life.copy_some(chance)


def live(left: Left, seed: int) -> Counter[str]:
    """Live and crash several times, and look after every crash. Returns how often which case came up."""
    chance, seen = random.Random(seed), Counter[str]()
    start = MapStart.AGREES
    for epoch in range(1, LIVES + 1):
        life = Life(left, epoch, start, ring_bytes=chance.choice([128 << 10, 1 << 20]))
        differing, named = differing_regions(left.primary.image(), left.replica), owed_regions(life.map)
        assert differing <= named, f"life {epoch}: regions {differing - named} differ, and no copy of them is owed"
        seen[life.map.found.name] += 1
        seen["differing"] += len(differing)
        seen["spared"] += REGIONS - len(named)
        work(life, chance, chance.randrange(60))
        left, start = life.crash(chance), MapStart.MARKED
    life = Life(left, LIVES + 1, MapStart.MARKED)
    while life.copy_some(chance):
        pass
    assert life.replica_at(1 << 60) == left.primary.image()
    return seen


@pytest.mark.parametrize("part", range(2))
def test_a_crash_leaves_no_region_that_differs_and_is_not_owed(part: int) -> None:
    seen = Counter[str]()
    for seed in range(part * SEEDS // 2, (part + 1) * SEEDS // 2):
        try:
            seen += live(Left.new(), seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert seen["differing"] > SEEDS / 4, "the crashes leave differences"
    assert seen["spared"] > SEEDS, "the map spares regions"
    assert seen[MapFound.BELIEVED.name] > SEEDS / 2, "most maps survive"


def killed(life: Life) -> Left:
    """End the process alone. What it wrote stays to be read, also what a failed flush has lost for good."""
    life.left.sidecar.heal()
    return Left(life.left.primary, life.left.sidecar, life.replica_at(life.rig.writer.state().lsn_written))


def test_a_sidecar_whose_io_fails_once_is_not_believed_too_much_after_a_kill_and_a_power_loss() -> None:
    seen = Counter[str]()
    for seed in range(30):
        chance, left, start = random.Random(seed), Left.new(), MapStart.AGREES
        for epoch in range(1, LIVES + 1):
            life = Life(left, epoch, start, ring_bytes=128 << 10)
            differing = differing_regions(left.primary.image(), left.replica)
            assert differing <= owed_regions(life.map), f"seed {seed}, life {epoch}"
            seen[life.map.found.name] += 1
            work(life, chance, chance.randrange(30))
            if chance.random() < 0.7:
                left.sidecar.fail_at(chance.randrange(1, 12), "transient")
            work(life, chance, chance.randrange(20))
            left = killed(life) if chance.random() < 0.6 else life.crash(chance)
            start = MapStart.MARKED
    assert seen[MapFound.NONE.name] > 10, "some maps were given up"
    assert seen[MapFound.BELIEVED.name] > 30, "most were not"
