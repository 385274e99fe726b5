"""Plan: the settings of a soak's domain and its episodes of faults, drawn from a seed. Pure.

The same seed gives the same plan. The machine decides which write a step meets, so two runs are alike but never the
same.

Invariants: a step is possible after the steps before it. An episode ends with nothing stopped, dead or away.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

__all__ = ["ENDS_STOP", "UNDONE_BY", "Act", "Plan", "Settings", "Step", "plan"]

STEPS_MAX = 12


class Act(Enum):
    """An action on the product or on a peer."""

    KILL_DRVA = "SIGKILL the DRVA"
    START_DRVA = "start the DRVA"
    RESTART_DRVA = "SIGTERM the DRVA, start it again"
    STOP_DRVA = "SIGSTOP the DRVA"
    CONTINUE_DRVA = "SIGCONT the DRVA"
    KILL_HOST = "SIGKILL the host component"
    END_HOST = "SIGTERM the host component"
    KILL_TARGET = "SIGKILL tgtd"
    START_TARGET = "start tgtd"
    STOP_TARGET = "SIGSTOP tgtd"
    CONTINUE_TARGET = "SIGCONT tgtd"
    STORE_GONE = "the store refuses everything"
    STORE_BACK = "the store answers again"
    PAUSE = "pause uploads"
    RESUME = "resume uploads"
    PROTECT = "protect one more disk"
    UNPROTECT = "protect it no more"
    MARK = "a mark, with the guests paused"


UNDONE_BY = {
    Act.KILL_DRVA: Act.START_DRVA,
    Act.STOP_DRVA: Act.CONTINUE_DRVA,
    Act.KILL_TARGET: Act.START_TARGET,
    Act.STOP_TARGET: Act.CONTINUE_TARGET,
    Act.STORE_GONE: Act.STORE_BACK,
    Act.PAUSE: Act.RESUME,
    Act.PROTECT: Act.UNPROTECT,
}
ENDS_STOP = {Act.KILL_DRVA: Act.CONTINUE_DRVA, Act.KILL_TARGET: Act.CONTINUE_TARGET}
"""A process that was killed needs no SIGCONT."""

ASKS_DRVA = {Act.PAUSE, Act.RESUME, Act.PROTECT, Act.UNPROTECT, Act.MARK, Act.RESTART_DRVA}
"""Acts that a dead or stopped DRVA cannot do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the domain of a soak is made."""

    write_back: bool
    log_on_lun: bool
    command_line: bool
    """Run ``jetdr drva`` itself. Otherwise the same DRVA runs with a store that fails now and then, and goes away."""
    ring_bytes: int
    ring_slots: int
    log_bytes: int
    segment_age_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """Wait for ``wait_s``, then act. From then on guests wait about ``pace_s`` between two requests."""

    wait_s: float
    act: Act
    pace_s: float

    def __str__(self) -> str:
        return f"after {self.wait_s:.2f} s: {self.act.value}; pace {self.pace_s * 1000:g} ms"


@dataclass(frozen=True, slots=True)
class Plan:
    """``seed`` determines the settings and any number of episodes."""

    seed: int
    settings: Settings

    def episode(self, number: int) -> list[Step]:
        """Return the steps of one episode. At its end, everything that was stopped, killed or taken away is back."""
        chance = random.Random(f"{self.seed}/{number}")
        undo: list[Act] = []
        steps = []
        for _ in range(chance.randint(4, STEPS_MAX)):
            act = chance.choice(self._possible(undo))
            if act in undo:
                undo.remove(act)
            if ENDS_STOP.get(act) in undo:
                undo.remove(ENDS_STOP[act])
            if act in UNDONE_BY:
                undo.append(UNDONE_BY[act])
            steps.append(_step(chance, act))
        undo.sort(key=lambda act: act in ASKS_DRVA)
        return steps + [_step(chance, act) for act in undo]

    def _possible(self, undo: list[Act]) -> list[Act]:
        away = Act.START_DRVA in undo or Act.CONTINUE_DRVA in undo
        found = [Act.KILL_HOST, Act.END_HOST, *undo, *undo]
        if Act.START_DRVA not in undo:
            found.append(Act.KILL_DRVA)
        if not away:
            found += [
                Act.KILL_DRVA,
                Act.STOP_DRVA,
                Act.STOP_DRVA,
                Act.RESTART_DRVA,
                Act.MARK,
                Act.MARK,
                Act.PAUSE,
                Act.PROTECT,
            ]
        if self.settings.log_on_lun and Act.START_TARGET not in undo:
            found += [Act.KILL_TARGET, Act.KILL_TARGET]
            found += [] if Act.CONTINUE_TARGET in undo else [Act.STOP_TARGET]
        if not self.settings.command_line and Act.STORE_BACK not in undo:
            found += [Act.STORE_GONE, Act.STORE_GONE]
        begun = {act for act, end in UNDONE_BY.items() if end in undo}
        return [act for act in found if act not in begun and not (away and act in ASKS_DRVA)]


def plan(seed: int) -> Plan:
    chance = random.Random(seed)
    settings = Settings(
        write_back=seed % 2 == 1,
        log_on_lun=seed // 2 % 2 == 1,
        command_line=seed % 5 == 4,
        ring_bytes=chance.choice([512 << 10, 1 << 20, 4 << 20]),
        ring_slots=chance.choice([256, 1024, 4096]),
        log_bytes=chance.choice([6 << 20, 8 << 20, 24 << 20]),
        segment_age_s=chance.choice([0.02, 0.1, 0.5]),
    )
    return Plan(seed, settings)


def _step(chance: random.Random, act: Act) -> Step:
    return Step(chance.choice([0.0, 0.02, 0.1, 0.3, 0.8, 1.5]), act, chance.choice([0.0, 0.0, 0.001, 0.005, 0.02]))
