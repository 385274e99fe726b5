"""Walks all sequences up to a length. The kernel is installed before."""

from __future__ import annotations

import argparse
import asyncio
import gc
import traceback
from collections.abc import Iterator, Sequence
from itertools import product

from tests.exhaustive.walk import STEPS, Walk
from tests.sim.kernel import KERNEL, machine_time

__all__ = ["run"]

TELL_EVERY = 200


def run(arguments: Sequence[str]) -> int:
    """Run what the command line asks for. Returns the exit status: 1 if a sequence failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.exhaustive", description="Walks all short sequences.")
    parser.add_argument("--length", type=int, default=3, help="the longest sequence (default: %(default)d)")
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth sequence")
    parser.add_argument("--only", help="only this sequence, such as 'write,flush,crash', and tell its story")
    chosen = parser.parse_args(arguments)
    if chosen.only:
        return _walk_all([tuple(chosen.only.split(","))], tells=True)
    return _walk_all(list(_sequences(chosen.length))[:: chosen.every], tells=False)


def _sequences(length: int) -> Iterator[tuple[str, ...]]:
    for count in range(1, length + 1):
        yield from product(STEPS, repeat=count)


def _walk_all(sequences: list[tuple[str, ...]], *, tells: bool) -> int:
    begun, failed, states = machine_time(), 0, 0
    for number, sequence in enumerate(sequences, 1):
        walk, problem = _walk(sequence)
        states += walk.states
        if problem or tells:
            name = ",".join(sequence)
            print(f"---- {name}", *walk.world.story, problem, f"replay: --only '{name}'", sep="\n", flush=True)
        failed += bool(problem)
        if len(KERNEL.threads) > 1:
            print("the threads of that sequence have not ended, so no other one can be walked")
            return 1
        gc.collect()
        if number % TELL_EVERY == 0:
            print(f"{number} sequences, {states} states, {machine_time() - begun:.0f} s", flush=True)
    print(f"{len(sequences)} sequences, {states} states, {machine_time() - begun:.0f} s; wrong: {failed}")
    return 1 if failed else 0


def _walk(sequence: tuple[str, ...]) -> tuple[Walk, str]:
    """Walk a sequence. Returns it with what went wrong, empty if nothing did."""
    walk = Walk(sequence)
    try:
        asyncio.run(walk.go())
        KERNEL.sleep_until_alone(60)
    except Exception as error:  # noqa: BLE001 - it is told
        problem = f"FAILED: {type(error).__name__}: {error}\n{traceback.format_exc()}"
        if KERNEL.stuck is None:
            asyncio.run(walk.world.give_up())
            KERNEL.wait(lambda: len(KERNEL.threads) == 1, 60 * 10**9)
        return walk, problem
    finally:
        walk.world.machine.remove()
    return walk, ""
