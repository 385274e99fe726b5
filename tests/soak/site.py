"""Site: the folder, the processes and the peers of one soak, and what can be done to them.

The folder is on tmpfs, because the ring must be. Invariant: :meth:`Site.end` leaves no process, whatever failed.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from jetdr_core.device import FileDevice
from jetdr_core.drva.client import ControlClient
from jetdr_core.drva.errors import DrvaUnreachable
from jetdr_core.errors import HostFailed, HostUnreachable
from jetdr_core.host import HostComponent, HostOptions
from tests.children import HELPERS
from tests.cli.jetdr_command import environment
from tests.peers.tgt import Lun, Tgt, running_tgt
from tests.soak.soak_plan import Settings

__all__ = ["DISKS", "DISK_BYTES", "MORE", "STALL_LIMIT_S", "Site", "until"]

DISK_BYTES = 4 << 20
DISKS = ("db01", "web01")
MORE = "more01"
"""A disk that is added and removed. Nobody writes to it."""

STALL_LIMIT_S = 0.5
START_LIMIT_S = 60.0
END_LIMIT_S = 90.0
LUN_BYTES = 64 << 20


def until(condition: Callable[[], Any], limit_s: float, what: str) -> Any:
    """Return the first true value of ``condition``. AssertionError if there is none within the limit."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.02)
    return found


class Site:
    """Domain ``vm`` with two disks. Nothing runs before :meth:`start_drva`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.host_kills = 0
        self.drva: subprocess.Popen[bytes] | None = None
        self.paused = False
        self._held = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="jd-soak-", dir="/dev/shm"))
        self.run = self.folder / "run"
        self.run.mkdir(mode=0o700)
        (self.folder / "store").mkdir()
        self.store = (self.folder / "store").as_uri()
        self.drva_log = self.folder / "drva.log"
        self.component = HostComponent("vm", HostOptions(runtime=str(self.run)))
        self.tgt: Tgt | None = None
        self.lun: Lun | None = None
        if settings.log_on_lun:
            self.tgt = self._held.enter_context(running_tgt())
            self.lun = self.tgt.add(LUN_BYTES, block_bytes=4096)
        self.primary(MORE).write_bytes(random.Random(0).randbytes(DISK_BYTES // 4))
        self.write_config()

    def write_config(self, *, hosts_on_stop: str = "keep") -> None:
        made = self.settings
        log = self.lun.url if self.lun else self.folder / "log"
        disks = "".join(
            f'[[domain.disk]]\nname = "{name}"\npath = "{self.primary(name)}"\nsize_bytes = {DISK_BYTES}\n'
            for name in DISKS
        )
        (self.folder / "drva.toml").write_text(
            f'[drva]\nruntime_dir = "{self.run}"\nstate_dir = "{self.folder}/state"\n'
            f'hosts_on_stop = "{hosts_on_stop}"\n[[volume]]\nname = "main"\npath = "{log}"\n'
            f'[[domain]]\nname = "vm"\nvolume = "main"\nsection_bytes = {made.log_bytes}\nstore = "{self.store}"\n'
            f'create = true\nmode = "{"write-back" if made.write_back else "write-through"}"\n'
            f"[domain.options]\nsegment_age_s = {made.segment_age_s}\nclose_limit_s = 5\nheartbeat_s = 0.5\n"
            f"upload_workers = 1\nstall_limit_s = {STALL_LIMIT_S}\n"
            f"ring_bytes = {made.ring_bytes}\nring_slots = {made.ring_slots}\n{disks}"
        )

    def primary(self, disk: str) -> Path:
        return self.folder / f"{disk}.img"

    @property
    def nbd_path(self) -> str:
        return str(self.run / "vm/nbd.sock")

    # -- the DRVA ----------------------------------------------------------------------------------------------------

    def start_drva(self) -> None:
        """Start the DRVA, and wait until it answers on its control socket. Its domain may not be open yet."""
        config = str(self.folder / "drva.toml")
        script = f"{HELPERS}from tests.soak import soak_drva; soak_drva.main()"
        command = [sys.executable, "-m", "jetdr_core.cli", "drva", config]
        if not self.settings.command_line:
            command = [sys.executable, "-c", script, config]
        with self.drva_log.open("ab") as log:
            self.drva = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(JETDR_ISCSI_LIMIT_S="6")
            )
        until(self.answers, START_LIMIT_S, "the DRVA answers")
        self.paused = False

    def answers(self) -> bool:
        assert self.drva is not None
        assert self.drva.poll() is None, f"the DRVA ended by itself, with {self.drva.returncode}"
        try:
            self.ask("status")
        except DrvaUnreachable:
            return False
        return True

    def kill_drva(self) -> None:
        assert self.drva is not None
        self.drva.kill()
        self.drva.wait()
        self.drva = None

    def signal_drva(self, number: signal.Signals) -> None:
        assert self.drva is not None
        self.drva.send_signal(number)

    def end_drva(self) -> None:
        """End the DRVA in order, as a service manager does."""
        assert self.drva is not None
        self.drva.send_signal(signal.SIGTERM)
        try:
            code = self.drva.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the DRVA did not end within {END_LIMIT_S:g} s of SIGTERM") from None
        assert code == 0, f"the DRVA ended with {code}"
        self.drva = None

    def ask(self, command: str, /, **arguments: object) -> Any:
        with ControlClient(self.run / "control.sock", answer_s=60) as client:
            return client.ask(command, **arguments)

    def status(self) -> dict[str, Any]:
        """Return what the DRVA reports of the domain: the keys of its status beside those of its session."""
        (found,) = self.ask("status", domain="vm")["domains"]
        return dict(found["status"] or {}) | dict(found)

    # -- others ------------------------------------------------------------------------------------------------------

    def end_host(self, number: signal.Signals) -> bool:
        """Send SIGKILL, or SIGTERM for an orderly end, and wait for the host component's end. False if none runs."""
        try:
            pid_fd = os.pidfd_open(self.component.pid)
        except (HostUnreachable, ProcessLookupError):
            return False
        try:
            self.host_kills += 1
            signal.pidfd_send_signal(pid_fd, number)
            _await_end(pid_fd)
        except ProcessLookupError:
            return False
        finally:
            os.close(pid_fd)
        return True

    def outage(self, *, begins: bool) -> None:
        path = self.folder / "outage"
        path.touch() if begins else path.unlink(missing_ok=True)

    def descriptors(self) -> dict[str, tuple[int, int]]:
        """Return the process and its number of open descriptors, for DRVA and host component."""
        assert self.drva is not None
        pids = {"DRVA": self.drva.pid, "host component": self.component.pid}
        return {name: (pid, len(os.listdir(f"/proc/{pid}/fd"))) for name, pid in pids.items()}

    # -- end ---------------------------------------------------------------------------------------------------------

    def assert_nothing_left(self) -> None:
        """Check, after an orderly end, that no process, no ring and no lock is left."""
        left = [f"{pid}: {words}" for pid, words in self._processes()]
        assert not left, f"processes are left: {left}"
        assert not (self.run / "vm/ring").exists(), "the ring is left though the log was closed clean"
        for name in DISKS:
            FileDevice(self.primary(name), direct=False, lock=True).close()
        lock = os.open(self.run / "drva.lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(lock)

    def _processes(self) -> list[tuple[int, str]]:
        """Return all processes whose command line names the folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if f"{self.folder}/" in words:
                        found.append((int(entry.name), words.strip()))
        return found

    def end(self, *, keep: bool = False) -> None:
        """End all processes, and remove the folder unless ``keep``."""
        with self._held:
            if self.drva is not None:
                self.kill_drva()
            with suppress(HostFailed):
                self.component.stop()
        if not keep:
            shutil.rmtree(self.folder)

    def bugs(self) -> list[str]:
        """Return the lines of the DRVA's log that report a bug."""
        lines = self.drva_log.read_text(errors="replace").splitlines()
        return [line for line in lines if "Traceback" in line or " level=critical" in line]

    def tails(self) -> str:
        """Return the ends of the logs, for a failure's report."""
        found = []
        for path, count in ((self.drva_log, 60), (self.run / "vm/host.log", 20)):
            if path.exists():
                lines = path.read_text(errors="replace").splitlines()
                found.append("\n".join([f"-- {path.name}, {len(lines)} lines, the last of them:", *lines[-count:]]))
        return "\n".join(found)


def _await_end(pid_fd: int) -> None:
    """Wait for the end of a process, even one that a stopped DRVA cannot reap."""
    poll = select.poll()
    poll.register(pid_fd, select.POLLIN)
    assert poll.poll(30_000), "the host component does not end"
