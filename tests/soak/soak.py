"""Soak: carries out one seed's plan on a site, under load, and checks on the way everything that must hold.

While a host component lives, no request of a guest fails, or waits longer than the stall limit and a margin. Every read
is checked against the model. After an episode, the domain becomes consistent by itself. Guests then pause, and what
they see, what the primaries hold and what the store's newest point gives back are the same. In the end every accepted
mark gives back what guests had when it was taken, the store verifies, and nothing is left.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jetdr_core as jetdr
from jetdr_core.drva.errors import ControlError
from jetdr_core.verify import verify
from tests.host.nbd_client import NbdClient
from tests.soak.guests import Guests
from tests.soak.model import BLOCK_BYTES, Model
from tests.soak.site import DISK_BYTES, DISKS, MORE, STALL_LIMIT_S, Site, until
from tests.soak.soak_plan import Act, Plan, Step, plan

__all__ = ["Report", "SoakFailed", "soak"]

MARGIN_S = 8.0
"""How much longer than the stall limit a request may take on a busy machine with few cores."""

CALM_LIMIT_S = 150.0
"""Logging that often went off is retried after up to 30 s, and then all disks are copied."""

CALM_PACE_S = 0.05
READ_BYTES = 1 << 20
DESCRIPTORS_MORE_MAX = 8

Say = Callable[[str], None]
Images = dict[str, bytes]


class SoakFailed(AssertionError):
    """Something that must hold did not. The message has the problem, the seed, the steps so far and the logs' ends."""


@dataclass
class Report:
    """What a soak did, and what it measured."""

    seed: int
    seconds: float = 0.0
    episodes: int = 0
    acts: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    longest_s: dict[str, float] = field(default_factory=dict)
    starved_s: float = 0.0
    """The longest time that a thread of the soak itself could not run, which shows how busy the machine was."""
    marks: int = 0
    marks_refused: int = 0
    calm_s: float = 0.0
    """The longest time that the domain took to become consistent after an episode."""
    off_times: int = 0
    unlogged_writes: int = 0

    def __str__(self) -> str:
        acts = ", ".join(f"{count} x {act}" for act, count in sorted(self.acts.items()))
        longest = ", ".join(f"{kind} {s:.2f} s" for kind, s in sorted(self.longest_s.items()))
        return (
            f"seed {self.seed}: {self.seconds:.0f} s, {self.episodes} episodes, {self.requests.total()} requests, "
            f"{self.marks} marks ({self.marks_refused} refused), logging off {self.off_times} times, "
            f"{self.unlogged_writes} writes bypassed the log\n"
            f"  {acts}\n  longest: {longest}; calm after at most {self.calm_s:.1f} s; "
            f"this process itself waited up to {self.starved_s:.2f} s"
        )


def soak(seed: int, seconds: float, *, say: Say = lambda _line: None, keep: bool = False) -> Report:
    """Carry out episodes of the seed for about ``seconds``, and at least one. Raises :class:`SoakFailed`."""
    chosen = plan(seed)
    site = Site(chosen.settings)
    running = _Soak(chosen, site, say)
    failed = False
    try:
        return running.run(seconds)
    except Exception as error:
        failed = True
        raise SoakFailed(_story(error, running)) from error
    finally:
        running.stop()
        site.end(keep=keep and failed)


def _story(error: Exception, running: _Soak) -> str:
    problem = "; ".join(running.guests.failed) if running.guests and running.guests.failed else ""
    lines = [
        f"seed {running.plan.seed} failed: {type(error).__name__}: {error}"
        + (f"; guests: {problem}" if problem else ""),
        f"with {asdict(running.plan.settings)}",
        f"in {running.site.folder}, after:",
        *running.done,
        running.site.tails(),
        f"To repeat: ./check soak --seed {running.plan.seed} (the same steps, with other timing)",
    ]
    return "\n".join(lines)


class _Soak:
    def __init__(self, chosen: Plan, site: Site, say: Say) -> None:
        self.plan = chosen
        self.site = site
        self.done: list[str] = []
        self.guests: Guests | None = None
        self._say = say
        self._report = Report(chosen.seed)
        self._models = {name: Model(number, DISK_BYTES // BLOCK_BYTES) for number, name in enumerate(DISKS, 1)}
        self._marks: dict[str, dict[str, str]] = {}
        self._off = self._unlogged = 0
        self._descriptors: dict[tuple[str, int], int] = {}
        self._starving = threading.Event()
        self._begun = time.monotonic()

    def run(self, seconds: float) -> Report:
        self._begun = time.monotonic()
        threading.Thread(target=self._watch_starving, daemon=True).start()
        self.site.start_drva()
        self._await_calm()
        seed = self.plan.seed
        kills = lambda: self.site.host_kills  # noqa: E731
        self.guests = Guests(self.site.nbd_path, self._models, kills, connections=2, seed=seed)
        while self._report.episodes == 0 or time.monotonic() - self._begun < seconds:
            self._episode(self._report.episodes)
            self._report.episodes += 1
        self._end()
        self._report.seconds = time.monotonic() - self._begun
        return self._report

    def stop(self) -> None:
        """End all threads."""
        self._starving.set()
        if self.guests is not None:
            self.guests.end()

    # -- an episode --------------------------------------------------------------------------------------------------

    def _episode(self, number: int) -> None:
        self._tell(f"episode {number}")
        for step in self.plan.episode(number):
            self._take(step)
        assert self.guests is not None
        self.guests.pace_s = CALM_PACE_S
        begun = time.monotonic()
        self._await_calm()
        self._report.calm_s = max(self._report.calm_s, time.monotonic() - begun)
        self.guests.pause()
        self._check_calm(f"calm {number}")
        self.guests.resume()

    def _take(self, step: Step) -> None:
        assert self.guests is not None
        self._starving.wait(step.wait_s)
        self._check_guests()
        self.guests.pace_s = step.pace_s
        self._tell(str(step))
        if _ACTS[step.act](self) is not False:
            self._report.acts[step.act.name.lower().replace("_", " ")] += 1

    def _check_guests(self) -> None:
        assert self.guests is not None
        assert not self.guests.failed, "a guest met what it must not"
        longest_s = max(self.guests.longest_s.values(), default=0.0)
        assert longest_s < STALL_LIMIT_S + MARGIN_S, f"a request took {longest_s:.1f} s: {self.guests.longest_s}"

    def _await_calm(self) -> None:
        """Wait until the domain is open and consistent by itself."""

        def is_calm() -> bool:
            if self.guests is not None:
                self._check_guests()
            status = self.site.status()
            return bool(status["state"] == "open" and status["consistent"] and self._has_its_disks(status))

        try:
            until(is_calm, CALM_LIMIT_S, "the domain is consistent by itself")
        except AssertionError as error:
            if self.guests is not None and self.guests.failed:
                raise
            raise AssertionError(f"{error}: {_short(self.site.status())}") from None
        self._count_off()

    def _has_its_disks(self, status: dict[str, Any]) -> bool:
        """Return whether the domain has exactly its own disks. If the extra disk is still there, it is removed now."""
        if any(disk["name"] == MORE for disk in status["disks"]):
            self._unprotect()
            return False
        return len(status["disks"]) == len(DISKS)

    def _count_off(self) -> None:
        status = self.site.status()
        self._off = max(self._off, status["host"]["off_times"])
        self._report.off_times = self._off
        self._report.unlogged_writes = max(
            self._report.unlogged_writes, sum(disk["unlogged_writes"] for disk in status["disks"])
        )

    # -- checks, with nobody writing ---------------------------------------------------------------------------------

    def _check_calm(self, name: str) -> None:
        images = self._see_all()
        point = until(lambda: self._mark(f"{name}, {time.time_ns()}"), CALM_LIMIT_S, "a mark is accepted in the calm")
        self._marks[point["name"]] = _hashes(images)
        until(lambda: self._uploaded(point["lsn"]), CALM_LIMIT_S, "the mark is uploaded")
        _assert_same(f"the store at {name!r} and what guests saw", _rebuilt(self.site.store, point["lsn"]), images)
        until(lambda: self._primaries() == images, 30, "the primaries hold what guests see")
        self._check_descriptors()

    def _see_all(self) -> Images:
        """Return all that the disks hold, as guests see it, after checking it against the model."""
        images = {name: self._read_all(name) for name in DISKS}
        for name, model in self._models.items():
            model.settled(images[name])
        return images

    def _read_all(self, name: str) -> bytes:
        def read() -> bytes | None:
            try:
                with NbdClient(self.site.nbd_path, name) as client:
                    return b"".join(client.read(offset, READ_BYTES) for offset in range(0, DISK_BYTES, READ_BYTES))
            except (ConnectionError, FileNotFoundError):  # the host component was killed and is not back yet
                return None

        return bytes(until(read, CALM_LIMIT_S, f"disk {name} is served"))

    def _mark(self, name: str) -> Any:
        try:
            return self.site.ask("mark", domain="vm", name=name)["point"]
        except ControlError as error:
            self._tell(f"mark {name!r} refused: {error}")
            return None

    def _uploaded(self, lsn: int) -> bool:
        try:
            return bool(self.site.ask("await_upload", domain="vm", lsn=lsn, limit_s=5)["uploaded"])
        except ControlError as error:
            self._tell(f"not uploaded: {error}")
            return False

    def _primaries(self) -> Images:
        return {name: self.site.primary(name).read_bytes() for name in DISKS}

    def _more(self) -> Images:
        return {MORE: self.site.primary(MORE).read_bytes()}

    def _check_descriptors(self) -> None:
        for name, (pid, count) in self.site.descriptors().items():
            first = self._descriptors.setdefault((name, pid), count)
            assert count <= first + DESCRIPTORS_MORE_MAX, f"the {name} had {first} descriptors, has {count}"

    # -- acts --------------------------------------------------------------------------------------------------------

    def _restart_drva(self) -> None:
        self.site.end_drva()
        self.site.start_drva()

    def _kill_target(self) -> None:
        assert self.site.tgt is not None
        self.site.tgt.kill()

    def _start_target(self) -> None:
        assert self.site.tgt is not None
        self.site.tgt.start()

    def _signal_target(self, number: signal.Signals) -> None:
        assert self.site.tgt is not None
        os.kill(self.site.tgt.pid, number)

    def _ask(self, command: str, **arguments: str) -> bool:
        try:
            self.site.ask(command, domain="vm", **arguments)
        except ControlError as error:
            self._tell(f"{command} refused: {error}")
            return False
        return True

    def _protect(self) -> bool:
        return self._ask("protect", disk=MORE, path=str(self.site.primary(MORE)))

    def _unprotect(self) -> bool:
        return self._ask("unprotect", disk=MORE)

    def _take_mark(self) -> bool:
        """Take a mark with the guests paused, if the domain can be marked now."""
        assert self.guests is not None
        self.guests.pause()
        try:
            name = f"mark {len(self._marks)}"
            images = {} if not self._serves() else self._see_all()
            marked = bool(images) and self._mark(name) is not None
            if marked:
                self._marks[name] = _hashes(images)
            self._report.marks += marked
            self._report.marks_refused += not marked
            return marked
        finally:
            self.guests.resume()

    def _serves(self) -> bool:
        status = self.site.status()
        return bool(status["state"] == "open" and status["consistent"] and self.site.component.running())

    # -- end ---------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        assert self.guests is not None
        self.guests.end()
        self._check_guests()
        self._report.requests = self.guests.answered
        self._report.longest_s = self.guests.longest_s
        self.site.end_drva()
        self.site.write_config(hosts_on_stop="stop")
        self.site.start_drva()
        self._await_calm()
        images = self._see_all()
        self._tell("the end: all in order")
        self.site.end_drva()
        self.site.assert_nothing_left()
        assert not (bugs := self.site.bugs()), f"errors that nobody foresaw: {bugs}"
        _assert_same("the primaries and what guests saw", self._primaries(), images)
        self._check_store(images)

    def _check_store(self, images: Images) -> None:
        report = asyncio.run(verify(self.site.store))
        assert report.is_sound, f"the store is damaged: {report.damage} {report.chain_problem}"
        _assert_same("the newest point and the primaries", _rebuilt(self.site.store, "latest"), images)
        for name, expected in self._marks.items():
            images = _rebuilt(self.site.store, name)
            if MORE in images:
                _assert_same(f"disk {MORE} at mark {name!r} and its primary", {MORE: images.pop(MORE)}, self._more())
            assert _hashes(images) == expected, f"mark {name!r} gives back something else than guests had then"

    # -- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, line: str) -> None:
        told = f"  {time.monotonic() - self._begun:7.2f} s  {line}"
        self.done.append(told)
        self._say(told)

    def _watch_starving(self) -> None:
        before = time.monotonic()
        while not self._starving.wait(0.05):
            now = time.monotonic()
            self._report.starved_s = max(self._report.starved_s, now - before - 0.05)
            before = now


_ACTS: dict[Act, Callable[[_Soak], object]] = {
    Act.KILL_DRVA: lambda soak: soak.site.kill_drva(),
    Act.START_DRVA: lambda soak: soak.site.start_drva(),
    Act.RESTART_DRVA: _Soak._restart_drva,
    Act.STOP_DRVA: lambda soak: soak.site.signal_drva(signal.SIGSTOP),
    Act.CONTINUE_DRVA: lambda soak: soak.site.signal_drva(signal.SIGCONT),
    Act.KILL_HOST: lambda soak: soak.site.end_host(signal.SIGKILL),
    Act.END_HOST: lambda soak: soak.site.end_host(signal.SIGTERM),
    Act.KILL_TARGET: _Soak._kill_target,
    Act.START_TARGET: _Soak._start_target,
    Act.STOP_TARGET: lambda soak: soak._signal_target(signal.SIGSTOP),
    Act.CONTINUE_TARGET: lambda soak: soak._signal_target(signal.SIGCONT),
    Act.STORE_GONE: lambda soak: soak.site.outage(begins=True),
    Act.STORE_BACK: lambda soak: soak.site.outage(begins=False),
    Act.PAUSE: lambda soak: soak._ask("pause"),
    Act.RESUME: lambda soak: soak._ask("resume"),
    Act.PROTECT: _Soak._protect,
    Act.UNPROTECT: _Soak._unprotect,
    Act.MARK: _Soak._take_mark,
}


def _rebuilt(store: str, at: int | str) -> Images:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        report = asyncio.run(jetdr.rehydrate(store, at=at, target=folder, format="raw"))
        return {disk.name: Path(disk.path).read_bytes() for disk in report.disks}


def _hashes(images: Images) -> dict[str, str]:
    return {name: hashlib.sha256(image).hexdigest() for name, image in images.items()}


def _assert_same(what: str, found: Images, expected: Images) -> None:
    assert found.keys() == expected.keys(), f"{what}: disks {sorted(found)}, not {sorted(expected)}"
    for name, image in expected.items():
        blocks = range(0, max(len(image), len(found[name])), BLOCK_BYTES)
        differ = [
            at // BLOCK_BYTES for at in blocks if image[at : at + BLOCK_BYTES] != found[name][at : at + BLOCK_BYTES]
        ]
        assert not differ, f"{what} differ: disk {name} in {len(differ)} blocks: {differ[:10]}"


def _short(status: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "state",
        "failure",
        "consistent",
        "why_inconsistent",
        "restarts",
        "paused",
        "host",
        "log_used_bytes",
        "disks",
    )
    return {key: status.get(key) for key in keys} | {
        "lsn": {key: value for key, value in status.items() if key.startswith("lsn")}
    }
