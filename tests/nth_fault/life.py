"""The lives of a domain in which every call fails in turn. Together they take every path that does I/O."""

from __future__ import annotations

from typing import NamedTuple

from tests.sim.machine import Wrong
from tests.sim.world import Step, World, recovered

__all__ = ["LIVES", "Life"]


class Life(NamedTuple):
    """``filled``: the disk has data of its own, so there is an initial copy."""

    steps: tuple[Step, ...]
    sectors: int = 64
    filled: bool = False
    keeps_maps: bool = False


async def opens(world: World) -> None:
    await world.opened()


async def writes(world: World) -> None:
    world.write(1, 4)
    world.write(3, 4)
    world.write(4, 2, is_zero=True)


async def flushes(world: World) -> None:
    world.flush()


async def becomes_consistent(world: World) -> None:
    if world.machine.domain is not None:
        await world.machine.wait_quiet(10)


async def marks(world: World) -> None:
    await world.mark()


async def closes(world: World) -> None:
    await world.close(upload=True)


async def closes_without_upload(world: World) -> None:
    await world.close(upload=False)


async def is_killed(world: World) -> None:
    await world.crash(power_loss=False)


async def loses_power(world: World) -> None:
    await world.crash(power_loss=True)


async def rehydrates(world: World) -> None:
    """Recover the newest mark by a link that may fail. What comes is right, or an error."""
    if world.marks:
        name, lsn, truths = world.marks[-1]
        image = (await recovered(world.machine.link, name))["db"]
        if wrong := truths["db"].wrong_at(lsn, image):
            raise Wrong(f"{name} (LSN {lsn}), by a link that failed: {wrong}")


async def loses_its_log(world: World) -> None:
    await world.lose_log()


async def fills_half_the_log(world: World) -> None:
    for _ in range(16):
        world.write(0, 64)


WORK = (writes, flushes, becomes_consistent, marks)

LAP = (fills_half_the_log, marks, fills_half_the_log, flushes, marks)

LIVES = {
    "orderly": Life((opens, *WORK, closes, opens, *WORK, closes_without_upload, opens, *WORK, rehydrates)),
    "killed": Life((opens, *WORK, writes, is_killed, opens, *WORK), keeps_maps=True, filled=True),
    "powerless": Life((opens, *WORK, writes, flushes, writes, loses_power, opens, *WORK), filled=True),
    "taken-over": Life((opens, *WORK, loses_its_log, opens, *WORK, is_killed, opens, marks), keeps_maps=True),
    "laps": Life((opens, *LAP, loses_power, opens, *LAP)),
}
