"""TreeProcess: has the calls of an object tree made in a process of its own, because the file system may hang.

A thread in I/O on a hanging file system cannot be ended, and keeps its process alive, even after that process has
closed everything in order. A process that does nothing but this I/O can be given up.

Invariants: no call waits longer than the answer limit. A call that is given up then raises :class:`TreeAway`, and may
have happened nevertheless. At most ``CALLS_MAX`` calls are in flight, those that were given up included, so a hang of
any length costs the memory of so many calls. While a call is in flight, the same read waits for its answer, and another
change of the same key waits for its end. So a file system that is only slow makes progress. But a read never takes the
answer of a read that began before a change which has ended since, unless its own caller gave that read up before.
A container has one process at a time: while one that was given up still hangs, no other is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jetdr_core.aio import shielded, unreported
from jetdr_core.child_environment import child_environment
from jetdr_core.store.tree import TreeIdentity
from jetdr_core.store.tree_call import MESSAGE_BYTES_MAX, CallAnswer, CallRequest, TreeCall
from jetdr_core.store.tree_worker import THREADS

__all__ = ["TreeAway", "TreeNotOpened", "TreeProcess"]

ANSWER_LIMIT_S = 15.0
CALLS_MAX = THREADS
END_LIMIT_S = 1.0
"""A process that has not ended so long after its socket was closed is killed, and given up if that does not help."""

KILLED_LIMIT_S = 0.1
"""A process that was killed and does not hang ends within this."""

_PROGRAM = """
import sys, types
for name, folder in (("jetdr_core", sys.argv[1]), ("jetdr_core.store", sys.argv[1] + "/store")):
    package = types.ModuleType(name)
    package.__path__ = [folder]
    sys.modules[name] = package
from jetdr_core.store.tree_worker import main
main()
"""
"""The packages are bare: what their ``__init__`` modules import would take ten times as long as what is needed here."""

_OPENING = 0  # the number of the first answer


class TreeAway(Exception):
    """The tree does not answer. It may later."""


class TreeNotOpened(Exception):
    """The container could not be opened, because of ``error``."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class TreeProcess:
    """The container at ``path``, in a process that the first call starts. ``create``: that call makes the folder."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        self._create = create
        self._identity: TreeIdentity | None = None
        self._worker: _Worker | None = None
        self._closed = False

    async def call(self, call: TreeCall, views: Sequence[memoryview]) -> bytes:
        """Return what the call reads. Raises what the tree raises, :class:`TreeNotOpened` and :class:`TreeAway`."""
        limit = asyncio.timeout(ANSWER_LIMIT_S)
        try:
            async with limit:
                worker = await self._running()
                return await worker.ask(call, views)
        except TimeoutError:
            if not limit.expired():  # the file system's own
                raise
            raise TreeAway(f"its file system has not answered for {ANSWER_LIMIT_S:.0f} s") from None

    async def call_each(self, calls: Sequence[TreeCall]) -> list[bytes | Exception]:
        """Return what each call returns or raises. If the file system hangs, all give up together."""
        found: list[bytes | Exception] = []
        for answer in await asyncio.gather(*(self.call(call, ()) for call in calls), return_exceptions=True):
            if not isinstance(answer, bytes | Exception):
                raise answer
            found.append(answer)
        return found

    async def close(self) -> None:
        self._closed = True
        if self._worker is not None:
            await self._worker.close()

    async def _running(self) -> _Worker:
        """Return the process, once it has opened the container. Another one, if it has died."""
        while (worker := self._worker) is None or worker.ended:
            if worker is not None:
                await worker.close()
            if self._closed:
                raise TreeAway("the store was closed")
            if self._worker is worker:  # no other call has started one meanwhile
                _refuse_while_hanging(self._path)
                self._worker = _Worker(self._path, self._identity, create=self._create and self._identity is None)
        self._identity = await worker.opened()
        return worker


@dataclass(slots=True, eq=False)
class _Flight:
    """A call that is in flight, or the opening (None). ``callers`` are the tasks that wait or waited for its answer.

    ``is_outdated``: what the call reads was changed after the call began.
    """

    call: TreeCall | None
    answer: asyncio.Future[bytes]
    callers: set[asyncio.Task[Any] | None] = field(default_factory=set)
    is_outdated: bool = False

    @property
    def turn(self) -> TreeCall | str:
        """What no two calls in flight share: the key that a call changes, or the whole call if it reads."""
        return "" if self.call is None else _turn_of(self.call)

    def may_answer(self, caller: asyncio.Task[Any] | None) -> bool:
        """Whether the answer is one that a call which ``caller`` makes now could have."""
        return self.call is not None and not self.call.changes and (not self.is_outdated or caller in self.callers)


def _turn_of(call: TreeCall) -> TreeCall | str:
    return call.key if call.changes else call


class _Worker:
    """One process, and the calls that are in flight in it."""

    def __init__(self, path: Path, identity: TreeIdentity | None, *, create: bool) -> None:
        self.ended = False
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._in_flight: dict[int, _Flight] = {}
        self._turns: dict[TreeCall | str, _Flight] = {}
        self._number = _OPENING
        self._opening = self._expect(None).answer
        with contextlib.ExitStack() as given_up:
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                given_up.callback(ours.close)
                with theirs:
                    self._process = _started(theirs, path, identity, create=create)
            except OSError as error:
                raise TreeAway(f"the process that does its I/O cannot be started: {error}") from error
            given_up.pop_all()
        ours.settimeout(0)
        self._channel = ours
        self._loop.add_reader(ours, self._take_answer)

    async def opened(self) -> TreeIdentity:
        """Return the identity of the container."""
        try:
            device, inode = (await shielded(self._opening)).split()
            return TreeIdentity(int(device), int(inode))
        except OSError as error:
            raise TreeNotOpened(error) from None

    async def ask(self, call: TreeCall, views: Sequence[memoryview]) -> bytes:
        caller = asyncio.current_task()
        while (same := self._turns.get(_turn_of(call))) is not None or len(self._turns) >= CALLS_MAX:
            if same is not None and same.may_answer(caller):
                same.callers.add(caller)
                return await shielded(same.answer)
            awaited = [same] if same is not None else list(self._turns.values())
            await asyncio.wait([flight.answer for flight in awaited], return_when=asyncio.FIRST_COMPLETED)
        if self.ended:
            raise TreeAway("the process that does its I/O has ended")
        flight = self._expect(call)
        flight.callers.add(caller)
        request = CallRequest(self._number, call, sum(view.nbytes for view in views))
        try:
            with _beside(views) as descriptors:
                socket.send_fds(self._channel, [request.encoded()], descriptors)
        except OSError:
            self._end()
        return await shielded(flight.answer)

    async def close(self) -> None:
        """Let the process end, and wait for that. If it takes long, or nobody waits any more, the process is killed."""
        self._end()
        deadline = time.monotonic() + END_LIMIT_S
        try:
            while self._process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.005)  # in a thread this could wait for threads that hang
        finally:
            if self._process.poll() is None:
                self._process.kill()
                _hanging[self._path] = self._process

    def _expect(self, call: TreeCall | None) -> _Flight:
        """Return what the answer to the next number will resolve. The opening has the first number."""
        if call is not None:
            self._number += 1
        flight = _Flight(call, unreported(self._loop.create_future()))
        self._in_flight[self._number] = self._turns[flight.turn] = flight
        return flight

    def _take_answer(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        data = b"".join(map(_content, descriptors))
        if not message:
            self._end()
            return
        answer = CallAnswer.decoded(message)
        flight = self._in_flight.pop(answer.number)
        del self._turns[flight.turn]
        if flight.call is not None and flight.call.changes:
            self._outdate(flight.call.key)
        problem = answer.problem(data)
        if problem is None:
            flight.answer.set_result(data)
        else:
            flight.answer.set_exception(problem)

    def _outdate(self, key: str) -> None:
        """Note that ``key`` has changed. Reads that are in flight may have seen it as it was before."""
        for flight in self._turns.values():
            if flight.call is not None and flight.call.reads_of(key):
                flight.is_outdated = True

    def _end(self) -> None:
        """Let the process end, and fail what is in flight in it. Idempotent."""
        if self.ended:
            return
        self.ended = True
        self._loop.remove_reader(self._channel)
        self._channel.close()
        for flight in self._in_flight.values():
            flight.answer.set_exception(TreeAway("the process that does its I/O has ended"))
        self._in_flight.clear()
        self._turns.clear()


def _started(
    channel: socket.socket, path: Path, identity: TreeIdentity | None, *, create: bool
) -> subprocess.Popen[bytes]:
    package = Path(__file__).parent.parent
    arguments = (package, channel.fileno(), path, "create" if create else "", *(identity or ()))
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _PROGRAM, *map(str, arguments)],
        pass_fds=[channel.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # who reads the owner's log to its end must not wait for a process that hangs
        env=child_environment(),
        cwd="/",
        start_new_session=True,
    )


@contextlib.contextmanager
def _beside(views: Sequence[memoryview]) -> Iterator[list[int]]:
    """Give a memory file with the bytes, to be sent beside a message. None for no bytes."""
    if not any(view.nbytes for view in views):
        yield []
        return
    descriptor = os.memfd_create("jetdr-request", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", buffering=0, closefd=False) as file:
            for view in views:
                written = 0
                while written < view.nbytes:
                    written += file.write(view[written:])
        yield [descriptor]
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb", buffering=0) as file:
        file.seek(0)
        return file.readall()


_hanging: dict[Path, subprocess.Popen[bytes]] = {}
"""Processes of closed stores that hang. Without this, a domain that is opened again and again would pile them up."""


def _refuse_while_hanging(path: Path) -> None:
    process = _hanging.get(path)
    if process is None:
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILLED_LIMIT_S)
    if process.poll() is None:
        raise TreeAway("its file system hangs, and so does the process that last used it")
    _hanging.pop(path, None)
