"""Runs episodes, one seed after the other, and tells how they ended. The kernel is installed before."""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import traceback
from collections.abc import Sequence

from tests.sim.episode import Episode
from tests.sim.kernel import KERNEL, machine_time

__all__ = ["run"]

TELL_EVERY = 500


def run(arguments: Sequence[str]) -> int:
    """Run what the command line asks for. Returns the exit status: 1 if a seed failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim", description="Simulates domains under faults, over virtual time."
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run (default: %(default)d)")
    parser.add_argument("--first", type=int, default=1, help="the first of them (default: %(default)d)")
    parser.add_argument("--seed", type=int, help="only this seed, and tell its story")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no seed after so much real time")
    parser.add_argument("--digests", action="store_true", help="print a digest of each story, to compare two runs")
    chosen = parser.parse_args(arguments)
    seeds = range(chosen.first, chosen.first + chosen.seeds) if chosen.seed is None else [chosen.seed]
    return 1 if _run_all(seeds, chosen) else 0


def _run_all(seeds: Sequence[int], chosen: argparse.Namespace) -> list[int]:
    begun, failed, ran = machine_time(), list[int](), 0
    for seed in seeds:
        if machine_time() - begun > chosen.seconds:
            break
        episode, problem = _simulate(seed)
        episode.remove()
        ran += 1
        if problem or chosen.seed is not None:
            _tell(seed, episode, problem)
        if chosen.digests:
            print(seed, hashlib.sha256("\n".join(episode.story).encode()).hexdigest()[:16], KERNEL.steps)
        if problem:
            failed.append(seed)
        if len(KERNEL.threads) > 1:
            print("the threads of that seed have not ended, so no other seed can be run")
            break
        gc.collect()
        if ran % TELL_EVERY == 0:
            print(f"{ran} seeds in {machine_time() - begun:.0f} s", flush=True)
    print(f"{ran} seeds in {machine_time() - begun:.0f} s; failed: {', '.join(map(str, failed)) or 'none'}")
    return failed


def _simulate(seed: int) -> tuple[Episode, str]:
    """Run one seed. Returns it with what went wrong, empty if nothing did."""
    episode = Episode(seed)
    try:
        asyncio.run(episode.run())
        KERNEL.sleep_until_alone(60)
    except Exception as error:  # noqa: BLE001 - it is told
        problem = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        if KERNEL.stuck is None:
            asyncio.run(episode.give_up())
            KERNEL.wait(lambda: len(KERNEL.threads) == 1, 60 * 10**9)
        return episode, problem
    return episode, ""


def _tell(seed: int, episode: Episode, problem: str) -> None:
    print(f"---- seed {seed}: {KERNEL.steps} steps, {KERNEL.now_ns / 1e9:.1f} s", *episode.story, sep="\n")
    if problem:
        print(f"FAILED: {problem}", f"replay: python -m tests.sim --seed {seed}", sep="\n", flush=True)
