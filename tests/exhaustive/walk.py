"""Walk: one sequence of what can happen to a domain, and every permitted state after a power loss at its end."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from tests.exhaustive.crash_states import kept_by_both
from tests.sim.link import Link
from tests.sim.machine import Wrong
from tests.sim.truth import Truth
from tests.sim.world import World

__all__ = ["STEPS", "Walk"]

SECTORS = 16


async def _write(world: World) -> None:
    world.write(0, 2)


async def _overlap(world: World) -> None:
    world.write(1, 3)


async def _zero(world: World) -> None:
    world.write(1, 2, is_zero=True)


async def _flush(world: World) -> None:
    world.flush()


async def _mark(world: World) -> None:
    assert world.machine.domain is not None
    world.machine.domain.mark(f"unnoted {len(world.story)}")
    world.say("a mark nobody waits for")


async def _seal(world: World) -> None:
    """What is pending becomes a segment, which does not reach the store yet."""
    domain = world.machine.domain
    assert domain is not None
    world.machine.link.is_cut = True
    with suppress(TimeoutError):
        await asyncio.wait_for(domain.uploaded(domain.status().lsn_reserved), 0.01)
    world.machine.link.is_cut = False


async def _upload(world: World) -> None:
    await world.mark()


async def _crash(world: World) -> None:
    await world.crash(power_loss=False)
    await world.opened()


async def _power_loss(world: World) -> None:
    await world.crash(power_loss=True)
    await world.opened()


async def _restart(world: World) -> None:
    await world.close(upload=False)
    await world.opened()


async def _pause(world: World) -> None:
    """Turn the upload off, or on again."""
    domain = world.machine.domain
    assert domain is not None
    if domain.status().paused:
        domain.resume()
    else:
        domain.pause()


STEPS: dict[str, Callable[[World], Awaitable[None]]] = {
    "write": _write,
    "overlap": _overlap,
    "zero": _zero,
    "flush": _flush,
    "mark": _mark,
    "seal": _seal,
    "upload": _upload,
    "crash": _crash,
    "power loss": _power_loss,
    "restart": _restart,
    "pause": _pause,
}


class Walk:
    """``states`` counts the states that were opened and judged."""

    def __init__(self, sequence: Sequence[str]) -> None:
        self.states = 0
        keeps_maps = sum(list(STEPS).index(name) for name in sequence) % 2 == 0
        self.world = World(sectors=SECTORS, keeps_maps=keeps_maps)
        self._sequence = sequence

    async def go(self) -> None:
        """Take the steps, lose power, and judge each state that is left. Raises :class:`Wrong`."""
        world, machine = self.world, self.world.machine
        await world.opened()
        await world.play([STEPS[name] for name in self._sequence])
        if machine.domain is None:
            raise Wrong("the domain is not open, though nothing has failed")
        machine.die("power is lost")
        log, disk, truth = (
            machine.log.after_kill(),
            machine.disks["db"].after_kill(),
            copy.deepcopy(machine.truths["db"]),
        )
        objects, marks, lsn = dict(world.store._container.objects), list(world.marks), world.lsn_flushed
        await machine.bury(power_loss=False)
        seen = set[tuple[bytes, bytes]]()
        for of_log, of_disk in kept_by_both(log.unflushed(), disk.unflushed()):
            machine.log, machine.disks["db"] = log.after_keeping(of_log), disk.after_keeping(of_disk)
            images = (machine.log.image(), machine.disks["db"].image())
            if images in seen:
                continue
            seen.add(images)
            world.store._container.objects = dict(objects)
            world.marks, world.lsn_flushed = list(marks), lsn
            machine.restore(Link(world.store, machine.link._chance))
            await self._judge(truth, images[1])

    async def _judge(self, truth: Truth, image: bytes) -> None:
        world, self.states = self.world, self.states + 1
        world.say(f"state {self.states}")
        if wrong := truth.wrong_after_crash(image):
            raise Wrong(f"the primary: {wrong}")
        world.machine.truths["db"] = copy.deepcopy(truth).after(image, is_durable=True)
        await world.heal()
        await world.judge()
