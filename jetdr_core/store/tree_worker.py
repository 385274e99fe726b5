"""The process that does the I/O of a directory store which may hang: its main program.

A thread in I/O on a hanging file system cannot be ended, and keeps its whole process alive. So the owner of a domain
lets a process of this kind do the I/O, which can be given up.

Requests come over a socket, one message each, with the bytes to write in a memory file beside the message. Threads
answer them in any order, with what they read beside the answer. The first answer, number 0, tells how opening the
container ended.

Invariants: the process ends when its socket does, so it never outlives its owner unless it hangs. Signals that are
meant for the owner do not end it: the owner still needs it while it closes in order.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from jetdr_core.durable import make_folders
from jetdr_core.store.tree import ObjectTree, TreeIdentity
from jetdr_core.store.tree_call import MESSAGE_BYTES_MAX, CallAnswer, CallRequest

__all__ = ["THREADS", "main"]

THREADS = 8
OWNERS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Serve a container. The arguments: package, descriptor of the socket, path, ``create`` or nothing, identity."""
    _package, descriptor, path, create, *identity = sys.argv[1:]
    for number in OWNERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=int(descriptor))
    try:
        if create == "create":
            make_folders(Path(path), mode=0o700)
        tree = ObjectTree(Path(path), identity=TreeIdentity(*map(int, identity)) if identity else None)
    except Exception as error:  # noqa: BLE001 - the owner raises it
        _send(channel, CallAnswer(0, error))
        return
    found = " ".join(map(str, tree.identity)).encode()
    _send(channel, CallAnswer(0, data_bytes=len(found)), found)
    _serve(channel, tree)


def _serve(channel: socket.socket, tree: ObjectTree) -> None:
    threads = ThreadPoolExecutor(THREADS, "jetdr-store")
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC)
        if not message:
            os._exit(0)  # without waiting for threads: the owner does not wait for them either
        threads.submit(_answer, channel, tree, message, descriptors)


def _answer(channel: socket.socket, tree: ObjectTree, message: bytes, descriptors: list[int]) -> None:
    try:
        with _views(descriptors) as views:
            request = CallRequest.decoded(message)
            try:
                data = request.perform(tree, views)
                answer = CallAnswer(request.number, data_bytes=len(data))
            except Exception as error:  # noqa: BLE001 - the owner raises it
                answer, data = CallAnswer(request.number, error), b""
        _send(channel, answer, data)
    except BaseException:  # noqa: BLE001 - the owner has left, or a bug: then all its calls fail, and it starts another
        os._exit(1)


@contextmanager
def _views(descriptors: list[int]) -> Iterator[list[memoryview]]:
    """Give the bytes that came beside a message."""
    if not descriptors:
        yield []
        return
    (descriptor,) = descriptors
    try:
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield [view]
    finally:
        os.close(descriptor)


def _send(channel: socket.socket, answer: CallAnswer, data: bytes = b"") -> None:
    if not data:
        channel.sendall(answer.encoded())
        return
    beside = os.memfd_create("jetdr-answer", os.MFD_CLOEXEC)
    try:
        with open(beside, "wb", buffering=0, closefd=False) as file:
            written = 0
            while written < len(data):
                written += file.write(memoryview(data)[written:])
        socket.send_fds(channel, [answer.encoded()], [beside])
    finally:
        os.close(beside)
