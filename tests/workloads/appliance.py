"""Appliance: ``jetdr drva`` and ``jetdr`` in processes of their own, as an operator runs them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jetdr_core.drva.client import ControlClient
from jetdr_core.drva.errors import DrvaUnreachable
from jetdr_core.host import HostComponent, HostOptions
from tests.cli.jetdr_command import environment, jetdr_process
from tests.workloads.protected_disks import stop_host

LIMIT_S = 60.0


class Appliance:
    """Domain ``vm`` with some disks, and a DRVA for it that can be killed and restarted."""

    def __init__(
        self,
        folder: Path,
        runtime: Path,
        store: str,
        disks: Mapping[str, int | Path],
        mode: str,
        stall_limit_s: float,
    ) -> None:
        """A new disk is given by its size, an existing one by its image."""
        self.store = store
        self.uris = {name: f"nbd+unix:///{name}?socket={runtime}/vm/nbd.sock" for name in disks}
        self.primaries = {
            name: disk if isinstance(disk, Path) else folder / f"{name}.img" for name, disk in disks.items()
        }
        self._socket = runtime / "control.sock"
        self._file = folder / "drva.toml"
        self._log = folder / "drva.log"
        self._file.write_text(
            f"""
[drva]
runtime_dir = "{runtime}"
state_dir = "{folder}/state"
hosts_on_stop = "stop"
[[volume]]
name = "main"
path = "{folder}/log"
[[domain]]
name = "vm"
volume = "main"
section_bytes = 268_435_456
store = "{store}"
mode = "{mode}"
create = true
[domain.options]
stall_limit_s = {stall_limit_s}
"""
            + "".join(_disk_table(name, self.primaries[name], disk) for name, disk in disks.items())
        )

    @property
    def lsn(self) -> int:
        """The last LSN given out. It is 0 while the DRVA is away."""
        status = self._status()
        return status["lsn_reserved"] if status else 0

    def end(self) -> None:
        """End the DRVA with SIGTERM. At return the primaries and the store have everything."""
        self._daemon.terminate()
        assert self._daemon.wait(LIMIT_S) == 0

    @contextlib.contextmanager
    def on(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a DRVA until the end of the context at the latest. The domain is consistent at first."""
        command = [sys.executable, "-m", "jetdr_core.cli", "drva", str(self._file)]
        with self._log.open("a") as log, subprocess.Popen(command, env=environment(), stderr=log) as daemon:
            self._daemon = daemon
            try:
                self.until(lambda status: status["consistent"])
                yield daemon
            finally:
                daemon.kill()

    def until(self, condition: Callable[[Any], object]) -> Any:
        """Return the first status of the domain that fulfils ``condition``."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            status = self._status()
            if status and condition(status):
                return status
            in_vain = time.monotonic() > deadline or self._daemon.poll() is not None
            assert not in_vain, f"{status}\n{self._log.read_text()}"
            time.sleep(0.05)

    def until_lsn(self, lsn: int) -> None:
        self.until(lambda status: status["lsn_reserved"] >= lsn)

    def _status(self) -> Any:
        """Return the domain's status, or None while the DRVA does not answer or has not opened the domain."""
        try:
            with ControlClient(self._socket, answer_s=LIMIT_S) as client:
                answer: Any = client.ask("status", domain="vm")
                return answer["domains"][0]["status"]
        except DrvaUnreachable:
            return None

    def mark(self, name: str) -> None:
        said = jetdr_process("mark", "vm", name, "--socket", self._socket)
        assert said.returncode == 0, said.stderr

    def recover(self, at: str, target: Path) -> None:
        said = jetdr_process("rehydrate", self.store, "--at", at, "--to", target)
        assert said.returncode == 0, said.stderr


def _disk_table(name: str, primary: Path, disk: int | Path) -> str:
    size_bytes = 0 if isinstance(disk, Path) else disk
    return f'[[domain.disk]]\nname = "{name}"\npath = "{primary}"\nsize_bytes = {size_bytes}\n'


@contextlib.contextmanager
def appliance(
    folder: Path, store: str, disks: Mapping[str, int | Path], *, stall_limit_s: float, mode: str = "write-through"
) -> Iterator[Appliance]:
    """Make an appliance whose DRVA is off. Its host component ends with the context, whatever happened."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="jetdr-") as runtime:
        try:
            yield Appliance(folder, Path(runtime), store, disks, mode, stall_limit_s)
        finally:
            stop_host(HostComponent("vm", HostOptions(runtime=runtime)))
