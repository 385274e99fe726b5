"""Kernel: runs the threads of this process one at a time, in an order that a seed decides, over virtual time.

A test with real threads and real time never meets the same order of events twice, and a seed replays nothing. So the
kernel takes the place of the machine's scheduler and clock. Product code runs as it is, with its threads, locks, pools
and event loops.

Invariants: one thread runs, and all others wait for their turn. A thread gives its turn away only where it waits, where
it does simulated I/O, and now and then where it takes a lock. Time moves only when every thread waits, and then to the
next deadline. What chance decides comes from the seed.

The kernel is installed before anything is imported that takes a lock, a clock or chance from the machine.
"""

from __future__ import annotations

import _thread
import asyncio.events
import os
import queue
import random
import selectors
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["EPOCH_NS", "KERNEL", "Kernel", "Stuck", "install", "machine_time"]

machine_time = time.monotonic
"""The machine's own clock, for how long a run takes."""

EPOCH_NS = 1_700_000_000_000_000_000
STEPS_MAX = 400_000
"""A seed that takes more steps than this makes no progress."""

Ready = Callable[[], bool]


class Stuck(Exception):
    """No thread can go on, or they go on without end."""


class Thread:
    """A thread that waits until ``ready`` or ``deadline_ns``. Its turn comes through ``turn``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turn = _thread.allocate_lock()
        self.turn.acquire()
        self.ready: Ready | None = None
        self.deadline_ns: int | None = None
        self.met = True
        self.looks_again = False  # it waits for whatever others do


class Kernel:
    """One for a process. :meth:`begin` starts it anew, with nothing but the calling thread."""

    def __init__(self) -> None:
        self.chance = random.Random(0)
        self.now_ns = 0
        self.steps = 0
        self.progress = 0
        self.switch_rate = 0.0
        self.on_step: Callable[[], None] = lambda: None
        self.on_time: Callable[[int], None] = lambda _ns: None
        self.current = Thread("main")
        self.threads = [self.current]
        self.stuck: Stuck | None = None
        self.word_at: Callable[[int], int] = lambda _address: 0  # until the core is there
        self._start_real = _thread.start_new_thread

    def begin(self, seed: int) -> None:
        """Start anew. Every other thread has ended."""
        assert self.threads == [self.current], [thread.name for thread in self.threads]
        self.chance.seed(seed)
        random.seed(seed)
        self.now_ns = self.steps = self.progress = 0

    # -- turns -------------------------------------------------------------------------------------------------------

    def wait(self, ready: Ready, limit_ns: int | None = None, *, looks_again: bool = False) -> bool:
        """Let others run until ``ready`` or the limit is over. Returns whether it was ready."""
        me = self.current
        me.ready, me.looks_again = ready, looks_again
        me.deadline_ns = None if limit_ns is None else self.now_ns + max(0, limit_ns)
        self._pass_on(me)
        if self.stuck is not None and me is self._main():
            raise self.stuck
        return me.met

    def pause(self) -> None:
        """Give the turn away, perhaps to oneself."""
        self.wait(_always)

    def pause_sometimes(self) -> None:
        if self.switch_rate and self.chance.random() < self.switch_rate:
            self.pause()

    def sleep(self, seconds: float) -> None:
        self.wait(_never, int(seconds * 1e9))

    def sleep_until_alone(self, limit_s: int) -> None:
        """Wait until every other thread has ended. :class:`Stuck` if that takes too long."""
        if not self.wait(lambda: len(self.threads) == 1, limit_s * 10**9):
            raise Stuck(f"left over: {[thread.name for thread in self.threads[1:]]}")

    def wait_for_others(self, limit_ns: int | None = None) -> None:
        """Wait until a thread has done something that did not itself wait for others."""
        seen = self.progress
        self.wait(lambda: self.progress != seen, limit_ns, looks_again=True)

    def _pass_on(self, me: Thread | None) -> None:
        """Give the turn to a thread that can use it. ``me`` is the caller, or None if it ends."""
        following = self._choose()
        if following is me:
            return
        self.current = following
        following.turn.release()
        if me is not None:
            me.turn.acquire()

    def _choose(self) -> Thread:
        self.steps += 1
        self.on_step()
        if self.steps > STEPS_MAX:
            self.stuck = Stuck(f"no end after {self.steps} steps")
            return self._main()
        while True:
            found = [thread for thread in self.threads if self._may_go_on(thread)]
            if found:
                chosen = found[self.chance.randrange(len(found))] if len(found) > 1 else found[0]
                self.progress += not chosen.looks_again
                return chosen
            deadlines = [thread.deadline_ns for thread in self.threads if thread.deadline_ns is not None]
            if not deadlines:
                self.stuck = Stuck(f"every thread waits: {[thread.name for thread in self.threads]}")
                return self._main()
            self.on_time(min(deadlines) - self.now_ns)
            self.now_ns = min(deadlines)

    def _may_go_on(self, thread: Thread) -> bool:
        thread.met = thread.ready is None or thread.ready()
        return thread.met or (thread.deadline_ns is not None and thread.deadline_ns <= self.now_ns)

    def _main(self) -> Thread:
        return self.threads[0]

    # -- threads -----------------------------------------------------------------------------------------------------

    def start(self, work: Callable[..., object], arguments: tuple[Any, ...] = (), _settings: object = None) -> int:
        """Start a thread, as ``_thread.start_new_thread`` does."""
        owner = getattr(work, "__self__", None)
        thread = Thread(getattr(owner, "name", "?"))
        self.threads.append(thread)

        def run() -> None:
            thread.turn.acquire()
            try:
                work(*arguments)
            finally:
                ended = getattr(owner, "_tstate_lock", None)
                if ended is not None:
                    ended.release()
                self.threads.remove(thread)
                self._pass_on(None)

        return self._start_real(run, ())

    # -- what the machine gives --------------------------------------------------------------------------------------

    def core_pause(self, address: int, seen: int, limit_ns: int) -> None:
        """Wait for the native core: see ``jetdr_core._core.simulate``."""
        if address:
            self.wait(lambda: self.word_at(address) != seen, limit_ns)
        else:
            self.wait_for_others(limit_ns)

    def monotonic(self) -> float:
        return self.now_ns / 1e9

    def monotonic_ns(self) -> int:
        return self.now_ns

    def time_ns(self) -> int:
        return EPOCH_NS + self.now_ns

    def time(self) -> float:
        return self.time_ns() / 1e9

    def urandom(self, size: int) -> bytes:
        return self.chance.randbytes(size)


def _always() -> bool:
    return True


def _never() -> bool:
    return False


KERNEL = Kernel()


class Lock:
    """A ``threading.Lock`` that lets others run while it waits."""

    def __init__(self) -> None:
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        KERNEL.pause_sometimes()
        if self._held and not (blocking and self._wait(None if timeout < 0 else int(timeout * 1e9))):
            return False
        self._held = True
        return True

    def _wait(self, limit_ns: int | None) -> bool:
        return KERNEL.wait(lambda: not self._held, limit_ns)

    def release(self) -> None:
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self._held = False


class _Selector(selectors.BaseSelector):
    """What an event loop waits with: only its own callbacks and timers, because nothing here has a descriptor."""

    def __init__(self) -> None:
        self.woken = False

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            KERNEL.wait(lambda: self.woken, None if timeout is None else int(timeout * 1e9) + 1)
        else:
            KERNEL.pause_sometimes()
        self.woken = False
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        raise AssertionError("nothing here has a descriptor")

    def unregister(self, fileobj: Any) -> Any:
        raise AssertionError("nothing here has a descriptor")

    def get_map(self) -> Any:
        return {}


def _loop_class() -> type[asyncio.AbstractEventLoop]:
    class Loop(asyncio.SelectorEventLoop):
        def __init__(self) -> None:
            self._wakes = _Selector()
            super().__init__(self._wakes)

        def time(self) -> float:
            return KERNEL.monotonic()

        def _make_self_pipe(self) -> None:
            pass

        def _close_self_pipe(self) -> None:
            pass

        def _write_to_self(self) -> None:
            self._wakes.woken = True

    return Loop


def _replace(module: ModuleType, **names: object) -> None:
    for name, value in names.items():
        setattr(module, name, value)


def install() -> None:
    """Take the machine's place in this process, for good. Before anything of the product is imported."""
    assert "concurrent.futures.thread" not in sys.modules, "its locks would be the machine's"
    kernel = KERNEL
    _replace(threading, Lock=Lock, _allocate_lock=Lock, _CRLock=None, _start_new_thread=kernel.start)
    _replace(threading, RLock=threading._PyRLock, _set_sentinel=Lock, _time=kernel.monotonic)  # type: ignore[attr-defined]
    threading._active_limbo_lock = threading.RLock()  # type: ignore[attr-defined]
    threading._shutdown_locks_lock = Lock()  # type: ignore[attr-defined]
    _replace(queue, SimpleQueue=queue._PySimpleQueue, time=kernel.monotonic)  # type: ignore[attr-defined]
    _replace(time, monotonic=kernel.monotonic, time=kernel.time, time_ns=kernel.time_ns, sleep=kernel.sleep)
    _replace(time, monotonic_ns=kernel.monotonic_ns, perf_counter=kernel.monotonic)
    _replace(os, urandom=kernel.urandom)
    _replace(random, _urandom=kernel.urandom)
    random._inst = random.Random(0)
    policy = type("Policy", (asyncio.DefaultEventLoopPolicy,), {"_loop_factory": _loop_class()})
    asyncio.set_event_loop_policy(policy())
    _start_pools_in_order()
    next(tempfile._get_candidate_names())  # type: ignore[attr-defined] # its chance is drawn now, and not in a seed
    _simulate_core(kernel)


def _start_pools_in_order() -> None:
    """Let a pool know its threads in the order in which it started them, and not in that of their addresses."""
    from concurrent.futures import thread  # noqa: PLC0415 - takes locks, which are the kernel's only now

    made = thread.ThreadPoolExecutor.__init__

    def init(self: Any, *arguments: Any, **settings: Any) -> None:
        made(self, *arguments, **settings)
        self._threads = _InOrder()

    thread.ThreadPoolExecutor.__init__ = init  # type: ignore[method-assign]


class _InOrder(dict[Any, None]):
    def add(self, thing: Any) -> None:
        self[thing] = None


def _simulate_core(kernel: Kernel) -> None:
    from jetdr_core import _core  # noqa: PLC0415 - takes locks, which are the kernel's only now

    clock = _core.ManualClock(EPOCH_NS)
    kernel.on_time = clock.advance
    _core.simulate(clock, kernel.core_pause)
    kernel.word_at = _core.word_at
