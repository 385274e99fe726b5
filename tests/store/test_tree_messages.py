"""What a process that does a directory store's I/O and its owner tell each other: in any order, or cut on the way."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from jetdr_core.errors import StoreError
from jetdr_core.store import DirectoryStore
from jetdr_core.store.tree import ObjectTree
from jetdr_core.store.tree_call import MESSAGE_BYTES_MAX, CallAnswer, CallRequest, TreeCall, TreeStep
from jetdr_core.store.tree_process import TreeAway, TreeProcess


def descriptors_max(count: int) -> tuple[int, int]:
    """Allow this process ``count`` descriptors, and return the limits that it had."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, limits[1]))
    return limits


def test_bytes_that_get_lost_between_the_processes_are_an_error_and_not_an_empty_answer(tmp_path: Path) -> None:
    """The system drops a descriptor that this process has no room for, and passes the message on without it."""

    async def scenario() -> None:
        store = DirectoryStore(tmp_path / "c", create=True, apart=True)
        try:
            await store.put_if_absent("k/a", [b"1"])
            lowest = os.open("/", os.O_RDONLY)
            os.close(lowest)
            limits = descriptors_max(lowest)
            try:
                with pytest.raises(StoreError, match="Too many open files") as read:
                    await store.get("k/a")
                with pytest.raises(StoreError, match="Too many open files") as listed:
                    [info async for info in store.list_prefix("k/")]
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert read.value.transient
            assert listed.value.transient
            assert await store.get("k/a") == b"1"
        finally:
            await store.close()

    asyncio.run(scenario())


def test_no_object_is_made_of_bytes_that_did_not_arrive(tmp_path: Path) -> None:
    request = CallRequest(1, TreeCall(TreeStep.CREATE, "a"), data_bytes=5)
    tree = ObjectTree(tmp_path)
    with pytest.raises(OSError, match="Too many open files"):
        CallRequest.decoded(request.encoded()).perform(tree, [])
    tree.close()
    assert not (tmp_path / "a").exists()


def test_an_object_without_bytes_can_be_put(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = DirectoryStore(tmp_path / "c", create=True, apart=True)
        await store.put_if_absent("a", [b""])
        assert await store.get("a") == b""
        await store.close()

    asyncio.run(scenario())


class Script:
    """Plays the process: takes the requests that are sent to it, and answers them in any order."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None

    def start(self, channel: socket.socket, *_place: object, **_options: object) -> subprocess.Popen[bytes]:
        self._channel = channel.dup()
        self.answer(0, b"1 2")
        return subprocess.Popen(["/bin/true"])

    async def request(self) -> CallRequest:
        while self._channel is None:
            await asyncio.sleep(0)
        self._channel.settimeout(0)
        message = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._channel, MESSAGE_BYTES_MAX), 10)
        return CallRequest.decoded(message)

    def answer(self, number: int, data: bytes = b"") -> None:
        assert self._channel is not None
        message = CallAnswer(number, data_bytes=len(data)).encoded()
        if not data:
            self._channel.send(message)
            return
        beside = os.memfd_create("answer")
        os.write(beside, data)
        socket.send_fds(self._channel, [message], [beside])
        os.close(beside)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()


def play(monkeypatch: pytest.MonkeyPatch, scenario: Callable[[TreeProcess, Script], Awaitable[None]]) -> None:
    async def scene() -> None:
        script = Script()
        monkeypatch.setattr("jetdr_core.store.tree_process._started", script.start)
        tree = TreeProcess(Path("/nowhere"), create=False)
        await scenario(tree, script)
        await tree.close()
        script.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    "read", [TreeCall(TreeStep.SCAN, "k/"), TreeCall(TreeStep.SCAN, "k/a"), TreeCall(TreeStep.READ_RANGE, "k/a", 0, 1)]
)
def test_a_read_after_a_change_takes_no_answer_of_a_read_before_it(
    read: TreeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(tree: TreeProcess, script: Script) -> None:
        before = asyncio.ensure_future(tree.call(read, ()))
        number_before = (await script.request()).number
        put = asyncio.ensure_future(tree.call(TreeCall(TreeStep.CREATE, "k/a"), ()))
        script.answer((await script.request()).number)
        await put
        after = asyncio.ensure_future(tree.call(read, ()))
        await asyncio.sleep(0)
        script.answer(number_before, b"old")
        assert await before == b"old"
        script.answer((await script.request()).number, b"new")
        assert await after == b"new"

    play(monkeypatch, scenario)


def test_a_read_that_its_caller_tries_again_takes_the_answer_although_something_changed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file system that is slow, and changes all the time, is listed in the end."""

    async def scenario(tree: TreeProcess, script: Script) -> None:
        scan = TreeCall(TreeStep.SCAN, "k/")
        began = asyncio.Event()

        async def persist() -> bytes:
            monkeypatch.setattr("jetdr_core.store.tree_process.ANSWER_LIMIT_S", 0.2)
            with pytest.raises(TreeAway):
                await tree.call(scan, ())
            monkeypatch.setattr("jetdr_core.store.tree_process.ANSWER_LIMIT_S", 30.0)
            put = asyncio.ensure_future(tree.call(TreeCall(TreeStep.CREATE, "k/a"), ()))
            script.answer((await script.request()).number)
            await put
            began.set()
            return await tree.call(scan, ())

        reading = asyncio.ensure_future(persist())
        number = (await script.request()).number
        await began.wait()
        await asyncio.sleep(0)
        script.answer(number, b"old")
        assert await reading == b"old"

    play(monkeypatch, scenario)


def test_a_closed_tree_starts_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(tree: TreeProcess, script: Script) -> None:
        call = asyncio.ensure_future(tree.call(TreeCall(TreeStep.READ, "a"), ()))
        await script.request()
        script.close()  # the process dies
        with pytest.raises(TreeAway):
            await call
        started: list[object] = []
        monkeypatch.setattr("jetdr_core.store.tree_process._started", lambda *place, **_options: started.append(place))
        await tree.close()
        with pytest.raises(TreeAway, match="was closed"):
            await tree.call(TreeCall(TreeStep.READ, "a"), ())
        assert started == []

    play(monkeypatch, scenario)


def test_a_process_that_cannot_be_started_is_a_transient_error_and_no_missing_object(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As while a package of this engine is being replaced."""

    async def scenario() -> None:
        store = DirectoryStore(tmp_path, apart=True)
        with monkeypatch.context() as patch:
            patch.setattr("sys.executable", "/nowhere/python")
            with pytest.raises(StoreError, match="cannot be started") as caught:
                await store.get("a")
            assert caught.value.transient
        await store.put_if_absent("a", [b"1"])
        await store.close()

    asyncio.run(scenario())
