"""Lets the n-th call fail, for every n, in every way. The kernel is installed before."""

from __future__ import annotations

import argparse
import asyncio
import gc
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.nth_fault.life import LIVES, Life
from tests.sim.fault_plan import Fault, FaultPlan
from tests.sim.kernel import KERNEL, machine_time
from tests.sim.world import World

__all__ = ["run"]


class Case(NamedTuple):
    """Which call fails, and how."""

    life: str
    fault: Fault
    for_good: bool
    number: int

    def __str__(self) -> str:
        return f"--life {self.life} --fault {self.fault.name} --number {self.number}" + " --for-good" * self.for_good


def run(arguments: Sequence[str]) -> int:
    """Run what the command line asks for. Returns the exit status: 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.nth_fault", description="Lets every call fail in turn.")
    parser.add_argument("--life", choices=list(LIVES), help="only this one")
    parser.add_argument("--fault", choices=[fault.name for fault in Fault], help="only this one")
    parser.add_argument("--number", type=int, help="only this call, and tell the story")
    parser.add_argument("--for-good", action="store_true", help="with --number: and all later ones at its place")
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth case")
    chosen = parser.parse_args(arguments)
    if chosen.number:
        cases = [Case(chosen.life, Fault[chosen.fault], chosen.for_good, chosen.number)]
    else:
        cases = [case for case in _cases() if chosen.life in {None, case.life}][:: chosen.every]
        cases = [case for case in cases if chosen.fault in {None, case.fault.name}]
    return _run_all(cases, tells=bool(chosen.number))


def _run_all(cases: list[Case], *, tells: bool) -> int:
    begun, failed, tally = machine_time(), 0, Counter[tuple[str, str]]()
    for case in cases:
        plan = FaultPlan(case.number, case.fault, for_good=case.for_good)
        world, problem = _live(LIVES[case.life], plan)
        tally.update({(call, _how(case)): count for call, count in plan.failed.items()})
        if problem or tells:
            print(
                f"---- {case}", *world.story, problem, f"replay: python -m tests.nth_fault {case}", sep="\n", flush=True
            )
        failed += bool(problem)
        if len(KERNEL.threads) > 1:
            print("the threads of that case have not ended, so no other case can be run")
            return 1
        gc.collect()
    for (call, how), count in sorted(tally.items()):
        print(f"| {call} | {how} | {count} |")
    print(f"{len(cases)} cases, {sum(tally.values())} failed calls, {machine_time() - begun:.0f} s; wrong: {failed}")
    return 1 if failed else 0


def _how(case: Case) -> str:
    return f"{case.fault.name}, {'for good' if case.for_good else 'once'}"


def _cases() -> Iterator[Case]:
    """Every call of a life without faults fails: on a device with EIO and ENOSPC, on a store in three ways."""
    for name, life in LIVES.items():
        plan = FaultPlan()
        world, problem = _live(life, plan)
        assert not problem, "\n".join([*world.story, problem])
        for number, (place, call) in enumerate(plan.calls, 1):
            ways = (
                (Fault.FAILED, Fault.LOST_ANSWER, Fault.DENIED) if place == "store" else (Fault.FAILED, Fault.NO_ROOM)
            )
            for fault in ways:
                if fault is not Fault.NO_ROOM or call != "read":
                    yield Case(name, fault, False, number)
                    yield Case(name, fault, True, number)


def _live(life: Life, plan: FaultPlan) -> tuple[World, str]:
    """Live a life under a plan. Returns it with what went wrong, empty if nothing did."""
    world = World(sectors=life.sectors, keeps_maps=life.keeps_maps, plan=plan, filled=life.filled)
    try:
        asyncio.run(_whole(world, life))
        KERNEL.sleep_until_alone(60)
    except Exception as error:  # noqa: BLE001 - it is told
        problem = f"FAILED: {type(error).__name__}: {error}\n{traceback.format_exc()}"
        if KERNEL.stuck is None:
            asyncio.run(world.give_up())
            KERNEL.wait(lambda: len(KERNEL.threads) == 1, 60 * 10**9)
        return world, problem
    finally:
        world.machine.remove()
    return world, ""


async def _whole(world: World, life: Life) -> None:
    await world.play(list(life.steps))
    await world.heal()
    await world.judge()
