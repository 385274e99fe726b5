"""Walks over what the product does with files and sockets, and lets each system call of it fail with each errno.

It runs in a process of its own, started with the library of ``refusals``. It prints what was told badly.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from jetdr_core.cli.app import _message
from jetdr_core.cli.exits import exit_code_of
from jetdr_core.device import FileDevice
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.hosting.bypassed_file import BypassedFile
from jetdr_core.domain.hosting.generation_file import GenerationFile, StateRecord
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.primary import open_primary
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.added_disks import AddedDisk, AddedDisks
from jetdr_core.drva.config import load_config
from jetdr_core.drva.daemon import _sole_use
from jetdr_core.drva.given_up_disks import GivenUpDisk, GivenUpDisks
from jetdr_core.drva.kept_files import read_config_file
from jetdr_core.drva.pause import Pause, PausedFile
from jetdr_core.errors import JetdrError
from jetdr_core.host import HostComponent, HostOptions
from jetdr_core.ownership import make_private
from jetdr_core.replication_log import look_at_volume, open_volume
from jetdr_core.store import open_store
from jetdr_core.unix_socket import UnixListener, connect_unix
from tests.errnos.refusals import Refusals

ERRNOS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT),
    *(errno.ENOTDIR, errno.EMFILE, errno.ENFILE, errno.ENOLCK, errno.EBUSY, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ESTALE, errno.ENOMEM, errno.EISDIR, errno.EEXIST),
)
LATER = (errno.ENOSPC, errno.EACCES, errno.EIO)
"""What a later call of the same kind fails with. The first one meets all of them."""

OWNER = UUID(int=7)
MIB = 1 << 20
TIMES_MAX = 2
"""So many calls of a kind are refused in turn, before it is taken that further ones are told alike."""

Step = Callable[[Path], object]


def make_key(folder: Path) -> None:
    KeyFile(folder / "key").make()


def read_key(folder: Path) -> None:
    KeyFile(folder / "key").read()


def bind_key(folder: Path) -> None:
    KeyFile(folder / "key").bind(UUID(int=5))


def note_disk(folder: Path) -> None:
    AddedDisks(folder, "payroll").note(AddedDisk(name="db", path="/vm/db"))


def forget_disk(folder: Path) -> None:
    AddedDisks(folder, "payroll").forget("db")


def give_disk_up(folder: Path) -> None:
    GivenUpDisks(folder, "payroll").note(GivenUpDisk(name="db", since_ns=1))


def take_disk_back(folder: Path) -> None:
    GivenUpDisks(folder, "payroll").forget("db")


def keep_pause(folder: Path) -> None:
    PausedFile(folder, "payroll").write(Pause(1, "why"))


def end_pause(folder: Path) -> None:
    PausedFile(folder, "payroll").remove()


def write_generation(folder: Path) -> None:
    GenerationFile(folder).write(StateRecord.new())


def make_bypassed(folder: Path) -> None:
    BypassedFile(folder, "payroll").create()


def remove_bypassed(folder: Path) -> None:
    BypassedFile(folder, "payroll").remove()


def make_folder(folder: Path) -> None:
    make_private("the state folder", folder / "a" / "b")


def make_ring(folder: Path) -> None:
    place = RingPlace(folder / "ring-of", UUID(int=3))
    place.make(payload_bytes=1 << 17, slots=16, lsn_next=1, time_ns_last=0, record_bytes_max=4096, write_back=False)
    place.publish(Generation(0))


def open_ring(folder: Path) -> None:
    RingPlace(folder / "ring-of", UUID(int=3)).open()


def remove_ring(folder: Path) -> None:
    RingPlace(folder / "ring-of", UUID(int=3)).remove()


def create_device(folder: Path) -> None:
    FileDevice(folder / "device", create_bytes=MIB, lock=True).close()


def use_device(folder: Path) -> None:
    device = FileDevice(folder / "device", lock=True)
    try:
        device.write(0, bytes(8192))
        device.read_into(0, bytearray(8192))
        device.zero(4096, 4096)
        device.sync()
        device.allocate_all()
        device.grow(2 * MIB)
    finally:
        device.close()


def create_volume(folder: Path) -> None:
    open_volume(folder / "log", owner=OWNER, create=True).close()


def read_volume(folder: Path) -> None:
    look_at_volume(folder / "log").device.close()


def create_primary(folder: Path) -> None:
    open_primary("db", folder / "disk", size_bytes=MIB, create=True).close()


def read_configuration(folder: Path) -> None:
    load_config(folder / "drva.toml")


def read_kept(folder: Path) -> None:
    read_config_file(str(folder / "drva.toml"))


def hold_runtime_dir(folder: Path) -> None:
    with _sole_use(folder / "run"):
        pass


def listen(folder: Path) -> None:
    listener = UnixListener("control_socket", folder / "socket")
    try:
        connect_unix(folder / "socket", 1.0).close()
        listener.remove_name()
    finally:
        listener.socket.close()


def open_host_log(folder: Path) -> None:
    component = HostComponent("payroll", HostOptions(runtime=str(folder)))
    with component._log():
        pass


def use_store(folder: Path) -> None:
    async def scenario() -> None:
        store = open_store((folder / "store").as_uri(), create=True)
        try:
            await store.put_if_absent("a/b", [b"x"])
            await store.get("a/b")
            await store.replace("ctl/h", [b"y"])
            [_ async for _ in store.list_prefix("")]
            await store.delete("a/b")
        finally:
            await store.close()

    asyncio.run(scenario())


STEPS: tuple[tuple[Step, ...], ...] = (
    (make_key, read_key, bind_key),
    (note_disk, forget_disk),
    (give_disk_up, take_disk_back),
    (keep_pause, end_pause),
    (write_generation,),
    (make_bypassed, remove_bypassed),
    (make_folder,),
    (make_ring, open_ring, remove_ring),
    (create_device, use_device),
    (create_volume, read_volume),
    (create_primary,),
    (read_configuration,),
    (read_kept,),
    (hold_runtime_dir,),
    (listen,),
    (open_host_log,),
)
"""Each row begins in an empty folder, and each step of it goes on from the ones before."""

CONFIGURATION = """
[[volume]]
name = "main"
path = "{0}/log"
[[domain]]
name = "payroll"
volume = "main"
store = "file://{0}/store"
"""


def main(folder: Path) -> None:
    refusals = Refusals()
    logging.disable()
    count = 0
    for row in STEPS:
        for number, step in enumerate(row):
            before = row[:number]
            _prepare(folder, before)
            with refusals.watching() as made:
                step(folder)
            for call, times in made.items():
                for after in range(min(times, TIMES_MAX)):
                    for code in ERRNOS if after == 0 else LATER:
                        _prepare(folder, before)
                        count += 1
                        for badly in _told(refusals, step, folder, call, code, after):
                            print(f"{step.__name__}: {call} {errno.errorcode[code]} ({after}): {badly}")
    print("walked", count)


def _prepare(folder: Path, steps: tuple[Step, ...]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / "drva.toml").write_text(CONFIGURATION.format(folder))
    for name in ("payroll", "ring-of"):
        (folder / name).mkdir(mode=0o700)
    for step in steps:
        step(folder)


def _told(refusals: Refusals, step: Step, folder: Path, call: str, code: int, after: int) -> Iterator[str]:
    """What is missing in the error that the step ends with. Nothing if it ends without one."""
    try:
        with refusals.refusing(call, code, after=after):
            step(folder)
    except Exception as error:  # noqa: BLE001 - every error is looked at
        if not isinstance(error, JetdrError | OSError):
            yield f"no error of the system: {error!r}"
            return
        said = _message(error, exit_code_of(error))
        told, _, remedy = said.partition("; ")
        if not any(_is_place(word.strip(":,;()'"), folder) for word in told.split()):
            yield f"no place: {said}"
        if not remedy:
            yield f"no remedy: {said}"
        if isinstance(error, JetdrError):
            return
        if " failed: " not in (error.strerror or ""):
            yield f"no attempt: {said}"


def _is_place(word: str, folder: Path) -> bool:
    """Whether it is a path of the step, or of a folder on the way to it. A host component without log has /dev/null."""
    return word == os.devnull or word.startswith(str(folder)) or (word.startswith("/") and folder.is_relative_to(word))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        os.umask(0o077)
        main(Path(sys.argv[1]))
