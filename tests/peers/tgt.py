"""tgtd, the user-space iSCSI target of Linux, the real peer of the iSCSI device in tests and benchmarks.

Each daemon has a free loopback port, a control socket and LUNs of its own, which are sparse files on tmpfs. So any
number of daemons run side by side. :class:`Tgt` keeps their settings, and starts a killed daemon again with the same
LUNs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.peers.azurite import PeerMissing
from tests.peers.port import free_port

START_LIMIT_S = 20.0
_names = itertools.count(1)


@dataclass(frozen=True)
class Lun:
    """One LUN, in a target of its own."""

    port: int
    number: int
    """The number of the target. Its only LUN is 1."""
    target: str
    image: Path
    block_bytes: int = 512
    read_only: bool = False
    thin: bool = False
    user: str = ""
    password: str = ""
    serial: str = ""

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the URL of the same LUN through another port, that of a proxy."""
        user = f"{self.user}@" if self.user else ""
        return f"iscsi://{user}127.0.0.1:{port}/{self.target}/1"


class Tgt:
    """A target daemon that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("tgtd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if found is None:
            raise PeerMissing("tgtd is not installed; ./check installs it")
        self._tgtd = found
        self._folder = folder
        self._environment = os.environ | {"TGT_IPC_SOCKET": str(folder / "control")}
        self._luns: dict[int, Lun] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    # -- the daemon ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon, with all the LUNs it had."""
        with (self._folder / "log").open("ab") as log:
            command = [self._tgtd, "-f", "-C", "1", "--iscsi", f"portal=127.0.0.1:{self.port}"]
            self._server = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        self._await_control()
        for lun in self._luns.values():
            self._configure(lun)

    def kill(self) -> None:
        """Send SIGKILL. What the daemon had written is in the page cache, and its sessions are gone."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()
        self._server = None

    def stop(self) -> None:
        if self._server is not None:
            self.kill()

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def _await_control(self) -> None:
        limit = time.monotonic() + START_LIMIT_S
        while self._admin("--op", "show", "--mode", "system", check=False) != 0:
            assert self._server is not None
            assert self._server.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < limit, "tgtd did not start"
            time.sleep(0.02)

    # -- its LUNs --------------------------------------------------------------------------------------------------

    def add(
        self,
        size_bytes: int,
        *,
        block_bytes: int = 512,
        read_only: bool = False,
        thin: bool = False,
        user: str = "",
        password: str = "",
        content: bytes = b"",
    ) -> Lun:
        """Add a LUN that begins with ``content`` and holds zeros after it."""
        number = next(_names)
        image = self._folder / f"lun-{number}"
        image.write_bytes(content)
        os.truncate(image, size_bytes)
        target = f"iqn.2026-11.test.jetdr:{os.getpid()}-{number}"
        lun = Lun(self.port, number, target, image, block_bytes, read_only, thin, user, password)
        self._luns[number] = lun
        self._configure(lun)
        return lun

    def change(self, lun: Lun, *, read_only: bool | None = None, size_bytes: int | None = None) -> None:
        """Change the LUN from the next start on."""
        if size_bytes is not None:
            os.truncate(lun.image, size_bytes)
        if read_only is not None:
            self._luns[lun.number] = replace(lun, read_only=read_only)

    def exchange(self, lun: Lun) -> None:
        """Let another LUN, with another serial number, answer in its place from the next start on."""
        self._luns[lun.number] = replace(lun, serial="exchanged")

    def remove(self, lun: Lun) -> None:
        """Remove the LUN from the running daemon and from later ones. Its image stays."""
        self._luns.pop(lun.number, None)
        if self._server is not None:
            self._admin("--op", "delete", "--mode", "target", "--tid", str(lun.number), "--force")

    def detach(self, lun: Lun) -> None:
        """Remove the LUN from its target. The target stays."""
        self._admin("--op", "delete", "--mode", "logicalunit", "--tid", str(lun.number), "--lun", "1")

    def _configure(self, lun: Lun) -> None:
        tid = ("--tid", str(lun.number))
        new_lun = ("--op", "new", "--mode", "logicalunit", *tid, "--lun", "1", "-b", str(lun.image))
        self._admin("--op", "new", "--mode", "target", *tid, "-T", lun.target)
        for name in ("MaxRecvDataSegmentLength", "MaxXmitDataSegmentLength"):
            self._admin("--op", "update", "--mode", "target", *tid, "--name", name, "--value", "262144")
        self._admin(*new_lun, "--blocksize", str(lun.block_bytes))
        update = ("--op", "update", "--mode", "logicalunit", *tid, "--lun", "1", "--params")
        if lun.read_only:
            self._admin(*update, "readonly=1")
        if lun.thin:
            self._admin(*update, "thin_provisioning=1")
        if lun.serial:
            self._admin(*update, f"scsi_sn={lun.serial}")
        if lun.user:
            account = ("--mode", "account", "--user", lun.user)
            self._admin("--op", "delete", *account, check=False)
            self._admin("--op", "new", *account, "--password", lun.password)
            self._admin("--op", "bind", "--mode", "account", *tid, "--user", lun.user)
        self._admin("--op", "bind", "--mode", "target", *tid, "-I", "ALL")

    def _admin(self, *arguments: str, check: bool = True) -> int:
        command = ["tgtadm", "-C", "1", "--lld", "iscsi", *arguments]
        path = f"{os.environ.get('PATH', '')}:/usr/sbin"
        run = subprocess.run(
            command, check=False, capture_output=True, text=True, env=self._environment | {"PATH": path}, timeout=20
        )
        assert not check or run.returncode == 0, f"{command}: {run.stderr}"
        return run.returncode


@contextlib.contextmanager
def running_tgt() -> Iterator[Tgt]:
    """Start a daemon, and end it at the end. Raises :class:`PeerMissing` if it is not installed."""
    with tempfile.TemporaryDirectory(prefix="jetdr-tgt-", dir="/dev/shm") as folder:
        tgt = Tgt(Path(folder))
        tgt.start()
        try:
            yield tgt
        finally:
            tgt.stop()
