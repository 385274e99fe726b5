"""A DRVA under test, in a thread of this process or in a process of its own, with a configuration on tmpfs."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from jetdr_core.domain import Disk, ProtectedDomain
from jetdr_core.drva.client import ControlClient
from jetdr_core.drva.config import DomainConfig, load_config
from jetdr_core.drva.configured_domain import AnyDomain, domain_settings
from jetdr_core.drva.daemon import Drva
from jetdr_core.drva.errors import DrvaUnreachable
from jetdr_core.drva.session import Backoff, Opener
from jetdr_core.host import HostComponent, HostOptions
from tests.cli.jetdr_command import environment

DISK_BYTES = 1 << 20
QUICK = Backoff(first_s=0.02, cap_s=0.2)
LIMIT_S = 40.0


class Place:
    """The directories of a test, with the configuration of a DRVA. Every domain has a disk ``db01``."""

    def __init__(self, path: Path, domains: tuple[str, ...] = ("payroll", "web")) -> None:
        self.path = path
        self.run = path / "run"
        self.socket = self.run / "control.sock"
        self.file = path / "drva.toml"
        self.domains = domains
        self.write()

    def write(
        self, *, drva: str = "", domain: str = "", options: str = "", create: bool = True, close_limit_s: float = 5
    ) -> None:
        """Write the configuration, with the given texts added to its tables."""
        parts = [f'[drva]\nruntime_dir = "{self.run}"\nstate_dir = "{self.path}/state"\n{drva}']
        parts.append(f'[[volume]]\nname = "main"\npath = "{self.path}/log"\n')
        options = f"close_limit_s = {close_limit_s}\n{options}"
        parts += [self._domain(name, domain, options, create) for name in self.domains]
        self.file.write_text("\n".join(parts))

    def _domain(self, name: str, domain: str, options: str, create: bool) -> str:
        ring = "" if "ring_bytes" in options else "ring_bytes = 4_194_304"
        return (
            f'[[domain]]\nname = "{name}"\nvolume = "main"\nsection_bytes = 8_388_608\n'
            f'store = "{self.store(name)}"\ncreate = {str(create).lower()}\n{domain}\n'
            f"[domain.options]\nsegment_age_s = 0.02\n{ring}\n{options}\n"
            f'[[domain.disk]]\nname = "db01"\npath = "{self.disk(name)}"\nsize_bytes = {DISK_BYTES}\n'
        )

    def store(self, domain: str) -> str:
        return (self.path / f"store-{domain}").as_uri()

    def disk(self, domain: str) -> Path:
        return self.path / f"{domain}.img"

    def component(self, domain: str) -> HostComponent:
        """Return the domain's host component, which may not run."""
        return HostComponent(domain, HostOptions(runtime=str(self.run)))

    def ask(self, command: str, /, **arguments: object) -> Any:
        with ControlClient(self.socket, answer_s=LIMIT_S) as client:
            return client.ask(command, **arguments)

    def status(self, domain: str = "payroll") -> Any:
        """Return what the DRVA reports of a domain, with the keys of its status, or else of its last known one.

        A test that cares whether the status is the present one looks at the key ``status``.
        """
        (found,) = self.ask("status", domain=domain)["domains"]
        return (found["last_known"] or {}) | (found["status"] or {}) | found

    def until(self, condition: Callable[[Any], object], domain: str = "payroll") -> Any:
        """Return the first status of the domain that fulfils ``condition``."""
        deadline = time.monotonic() + LIMIT_S
        while not condition(found := self.status(domain)):
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
        return found


@contextmanager
def place(*domains: str) -> Iterator[Place]:
    """Make a place on tmpfs, with a short path: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="jd-") as folder:
        here = Place(Path(folder), domains or ("payroll", "web"))
        try:
            yield here
        finally:
            for domain in here.domains:
                here.component(domain).stop()


async def embedded(config: DomainConfig) -> AnyDomain:
    """Open a configured domain without a host component, so that tests write to its disks in this process."""
    is_new, settings = await domain_settings(config)
    if is_new:
        return ProtectedDomain.create(config.name, **settings)
    if config.take_over:
        return ProtectedDomain.take_over(config.name, trust_stored_paths=True, **settings)
    return ProtectedDomain.open(config.name, trust_stored_paths=True, **settings)


class InProcess:
    """A DRVA in a thread of this process."""

    def __init__(self, drva: Drva) -> None:
        self.drva = drva
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="test-drva")
        self._failure: BaseException | None = None
        self._thread.start()

    def domain(self, name: str = "payroll") -> ProtectedDomain:
        return cast(ProtectedDomain, self.drva.sessions[name].domain)

    def disk(self, name: str = "payroll", disk: str = "db01") -> Disk:
        return self.domain(name).disk(disk)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self.drva.stop)

    def join(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive(), "the DRVA did not end"
        if self._failure is not None:
            raise self._failure

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self.drva.run())
        except BaseException as error:  # noqa: BLE001 - raised by join
            self._failure = error


@contextmanager
def running(
    place: Place,
    *,
    create: bool = False,
    take_over: tuple[str, ...] = (),
    opener: Opener = embedded,
    **more: Any,
) -> Iterator[InProcess]:
    """Run the DRVA of a place until the end of the context. It has tried to open each domain once.

    By default this process does the I/O.
    """
    drva = InProcess(
        Drva(load_config(place.file), create=create, take_over=take_over, opener=opener, backoff=QUICK, **more)
    )
    try:
        deadline = time.monotonic() + LIMIT_S
        while not drva.drva.ready.is_set():
            assert time.monotonic() < deadline
            if drva.ended:
                drva.join()
            time.sleep(0.005)
        yield drva
    finally:
        if not drva.ended:
            drva.stop()
        drva.join()


@contextmanager
def process(
    place: Place, *arguments: str, code: str = "", opened: bool = True, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Run ``jetdr drva`` in a process of its own, or Python ``code`` that runs it.

    ``opened``: wait until no domain is being opened for the first time, and not only until the DRVA answers. At the end
    of the context the process is killed if it still runs.
    """
    program = ["-c", code] if code else ["-m", "jetdr_core.cli"]
    command = [sys.executable, *program, "drva", str(place.file), *arguments]
    with subprocess.Popen(command, env=environment(**variables), stderr=subprocess.PIPE, text=True) as daemon:
        try:
            _until_answering(place, daemon, opened=opened)
            yield daemon
        finally:
            if daemon.poll() is None:
                daemon.kill()
            assert daemon.stderr is not None
            daemon.stderr.close()


def end(daemon: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> str:
    """End the process with a signal, and return what it logged."""
    daemon.send_signal(number)
    _, logged = daemon.communicate(timeout=LIMIT_S)
    return logged


def _until_answering(place: Place, daemon: subprocess.Popen[str], *, opened: bool) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        assert time.monotonic() < deadline
        assert daemon.poll() is None, daemon.communicate()[1]
        try:
            states = [domain["state"] for domain in place.ask("status")["domains"]]
            if not opened or "opening" not in states:
                return
        except DrvaUnreachable:
            pass
        time.sleep(0.02)
