"""A DRVA's process for tests to kill and to pause: opens a hosted domain, then does what lines on stdin ask for."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jetdr_core as jetdr
from tests.domain.hosted import DISK_BYTES, Machine, assert_replica_equals_primary, until


async def serve(order: dict[str, Any]) -> None:
    made = Machine(Path(order["folder"]), **order["settings"])
    if order.get("dies_at"):
        die_at(*order["dies_at"])
    domain = made.create() if order["how"] == "create" else made.open()
    await domain.__aenter__()
    if order["how"] == "create":
        await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
    say(asdict(domain.status()))
    while True:
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            return
        word, *more = json.loads(line)
        say(await answer(domain, made, word, more))
        if word == "close":
            return


async def answer(domain: jetdr.HostedDomain, made: Machine, word: str, more: list[Any]) -> Any:
    """Do what the word asks for, and return what to say."""
    match word:
        case "wait":
            await domain.wait_consistent()
        case "equal":
            await assert_replica_equals_primary(domain, made)
        case "pause":
            domain.pause()
        case "applied":
            await asyncio.to_thread(wait_applied, domain)
        case "close":
            await domain.close(stop_host=more[0])
    return asdict(domain.status()) if word in {"status", "wait"} else True


def die_at(module: str, name: str) -> None:
    """Kill this process when it is about to call ``CLASS.NAME`` of ``module``."""
    owner, _, method = name.rpartition(".")
    setattr(
        getattr(importlib.import_module(module), owner), method, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    )


def wait_applied(domain: jetdr.HostedDomain) -> None:
    ring = domain._alive.parts.ring
    until(lambda: not ring.write_back or ring.lsn_in_primaries >= ring.lsn_reserved)


def say(value: object) -> None:
    print(json.dumps({"value": value}), flush=True)


def main() -> None:
    try:
        asyncio.run(serve(json.loads(sys.argv[1])))
    except BaseException as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        raise
