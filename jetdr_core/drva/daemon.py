"""Drva: the appliance process. It has one session per domain, a control socket, metrics, and an orderly end.

Threads: the event loop here answers clients and signals, and waits for nothing else. Each domain has a loop of its own
(session). Metrics are served from threads.

Invariants: a runtime directory has one DRVA. Nothing starts before the configuration has been checked. The end waits
for every domain, but never longer than the longest close_limit_s and STOP_LIMIT_S.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from jetdr_core import __version__
from jetdr_core.aio import shielded
from jetdr_core.catalog import iso_time
from jetdr_core.device.iscsi_url import PASSWORD_VARIABLE, IscsiLun, options_of
from jetdr_core.domain import OnMismatch
from jetdr_core.drva.alarm_log import Acknowledged, AlarmLog, AlarmState
from jetdr_core.drva.alarms import Alarm
from jetdr_core.drva.commands import Commands
from jetdr_core.drva.config import LOCK_NAME, DrvaConfig, load_config
from jetdr_core.drva.configured_domain import open_domain
from jetdr_core.drva.control_server import ControlServer
from jetdr_core.drva.doctor.place_checks import check_places
from jetdr_core.drva.errors import DrvaBusy
from jetdr_core.drva.logs import logging_to_stderr
from jetdr_core.drva.metrics import DrvaCollector, MetricsServer
from jetdr_core.drva.metrics_listener import MetricsListener
from jetdr_core.drva.notify import Notifier
from jetdr_core.drva.reload import reload_of
from jetdr_core.drva.session import Backoff, DomainSession, Opener
from jetdr_core.drva.session_json import alarm_json
from jetdr_core.drva.session_state import State
from jetdr_core.drva.start_request import StartRequest
from jetdr_core.drva.unconfigured_hosts import UnconfiguredHosts
from jetdr_core.drva.wire import Json
from jetdr_core.errors import DeviceBusy, InvalidRequest
from jetdr_core.file_making import lock_file, making
from jetdr_core.ownership import check_guarded, make_private
from jetdr_core.store.connect import secret_variables
from jetdr_core.store.credential_file import credential_secrets

__all__ = ["Drva", "run_drva"]

log = logging.getLogger(__name__)


STOP_LIMIT_S = 10.0
"""A stop takes no longer than this and the longest close_limit_s. What still hangs then is left as it is."""

KEEP_EVERY_S = 5.0

READY_LIMIT_S = 60.0
"""Whoever waits for the DRVA to be ready waits no longer than this for a domain that hangs while it is opened."""


class Drva:
    """One run of the appliance. ``create``: every domain that does not exist may be created.

    ``take_over`` names domains whose log is lost or given up. They continue with a new log. ``give_up_from`` and
    ``discard_log`` say for such a domain what else is given up: the store's objects from a lost one on, and a log that
    is sound. ``on_mismatch`` says for a domain in write-back what to do if its log, store, state and disks do not
    belong together. ``begin_anew`` gives the UUID of a lost domain, for which a new one of its name is created.
    """

    def __init__(
        self,
        config: DrvaConfig,
        *,
        create: bool = False,
        take_over: Collection[str] = (),
        give_up_from: Mapping[str, int] | None = None,
        discard_log: Mapping[str, str] | None = None,
        on_mismatch: Mapping[str, OnMismatch] | None = None,
        begin_anew: Mapping[str, UUID] | None = None,
        opener: Opener = open_domain,
        backoff: Backoff | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        asked = StartRequest(
            create, take_over, give_up_from or {}, discard_log or {}, on_mismatch or {}, begin_anew or {}
        )
        asked.check(config)
        stop_host = config.hosts_on_stop == "stop"
        self.config = config
        self.sessions = {
            one.name: DomainSession(one, opener, stop_host=stop_host, backoff=backoff)
            for one in map(asked.of, config.domains)
        }
        self.ready = asyncio.Event()
        self.hanging: list[str] = []
        self._notifier = notifier or Notifier({})
        self._started_s = time.time()
        collector = DrvaCollector(lambda: [s.view() for s in self.sessions.values()], self._started_s, self.alarms)
        self._metrics = MetricsListener(config.metrics, collector)
        self._unconfigured = UnconfiguredHosts(config.runtime_dir, self.sessions.keys())
        self._stopping = asyncio.Event()
        self._not_applied: tuple[str, ...] = ()
        self._own_alarms = AlarmLog()
        self._reloading = asyncio.Lock()

    @property
    def metrics(self) -> MetricsServer | None:
        """The server of the metrics, if it listens."""
        return self._metrics.server

    def alarms(self) -> tuple[AlarmState, ...]:
        """What is wrong with the appliance itself, and not with one of its domains."""
        not_applied = [Alarm("config_not_applied", text, text) for text in self._not_applied]
        return self._own_alarms.note([*not_applied, *self._unconfigured.alarms(), *self._metrics.alarms()])

    def acknowledge(self, domain: str | None, alarm: str | None) -> Acknowledged:
        """Acknowledge alarms of that name, or all, of a domain, or of all and of the DRVA."""
        if domain is not None:
            return self.sessions[domain].acknowledge(alarm)
        of_domains = (session.acknowledge(alarm) for session in self.sessions.values())
        return sum(of_domains, self._own_alarms.acknowledge(alarm))

    def stop(self) -> None:
        """Begin to stop: flush, upload and close every domain. A second call ends the uploads."""
        hurry = self._stopping.is_set()
        log.info("stopping%s", " at once" if hurry else "")
        self._stopping.set()
        for session in self.sessions.values():
            session.stop(hurry=hurry)

    async def reload(self) -> None:
        """Read the configuration's file again and take over what may change. The rest is refused, with an alarm.

        Credentials are read anew, and whatever waits to be tried again is tried at once.
        """
        async with self._reloading:
            try:
                new = await asyncio.to_thread(_checked_config, self.config.file)
            except (InvalidRequest, OSError) as error:
                self._not_applied = (f"the configuration cannot be read, so the one before still applies: {error}",)
                log.error("%s", self._not_applied[0])
                return
            found = reload_of(self.config, new)
            self.config = found.config
            logging.getLogger().setLevel(found.config.log_level.upper())
            for domain in found.config.domains:
                self.sessions[domain.name].reconfigure(domain)
            log.info("configuration reloaded; changed: %s", "; ".join(found.changed) or "nothing")
            for text in found.refused:
                log.warning("configuration: %s does not change in operation: restart the DRVA for it", text)
            self._not_applied = tuple(f"{text}: restart the DRVA for it" for text in found.refused)

    async def run(self) -> None:
        """Run until :meth:`stop`."""
        control = ControlServer(
            self.config.control_socket,
            Commands(self.sessions, self._about, self._unconfigured, self.acknowledge).answer,
        )
        check_places(self.config)
        with ExitStack() as held:
            held.enter_context(_sole_use(self.config.runtime_dir))
            self._metrics.listen()
            held.callback(self._metrics.stop)
            await control.start()
            try:
                await self._serve(control)
            finally:
                await control.stop()
        log.info("stopped")

    async def _serve(self, control: ControlServer) -> None:
        ends = [asyncio.wrap_future(session.start()) for session in self.sessions.values()]
        beside = [asyncio.ensure_future(work) for work in (self._beat(), self._keep(control))]
        try:
            await self._settled()
            await self._stopping.wait()
        finally:
            self._notifier.stopping()
            for session in self.sessions.values():
                session.stop()
            await self._closed(ends)
            if self.config.hosts_on_stop == "stop":
                await asyncio.to_thread(self._unconfigured.stop_all)
            for work in beside:
                work.cancel()

    async def _closed(self, ends: Sequence[asyncio.Future[None]]) -> None:
        """Wait until every session has ended, but not for a store or device that hangs."""
        limit_s = STOP_LIMIT_S + max((domain.options.close_limit_s for domain in self.config.domains), default=0.0)
        _, hanging = await asyncio.wait(ends, timeout=limit_s)
        self.hanging = [name for name, end in zip(self.sessions, ends, strict=True) if end in hanging]
        for name in self.hanging:
            log.error(
                "domain %s has not closed within %.0f s, because its store, log or a disk hangs; it is left as a crash "
                "would leave it, and its log keeps what was not uploaded",
                name,
                limit_s,
                extra={"domain": name},
            )

    async def _settled(self) -> None:
        """Wait until every domain is open, has failed to open once, or hangs. Then the DRVA is ready."""
        settled = asyncio.gather(*(shielded(session.settled) for session in self.sessions.values()))
        stopping = asyncio.ensure_future(self._stopping.wait())
        waiting: set[asyncio.Future[Any]] = {settled, stopping}
        await asyncio.wait(waiting, timeout=READY_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        for future in waiting:
            future.cancel()
        if self._stopping.is_set():
            return
        opened = sum(session.view().state is State.OPEN for session in self.sessions.values())
        said = f"{opened} of {len(self.sessions)} domains open"
        log.info("ready: %s", said)
        self._notifier.ready(said)
        self.ready.set()

    async def _beat(self) -> None:
        """Report to the service manager, again and again, that this loop is alive."""
        period_s = self._notifier.watchdog_s
        while period_s is not None:
            self._notifier.alive()
            await asyncio.sleep(period_s)

    async def _keep(self, control: ControlServer) -> None:
        """Do again and again what must not hold up a start."""
        while True:
            await control.keep()
            self._metrics.listen()
            await asyncio.to_thread(self._unconfigured.look)
            for session in self.sessions.values():
                session.note_alarms()  # one that hangs does not note that it does
            await asyncio.sleep(KEEP_EVERY_S)

    def _about(self) -> Json:
        metrics = self.metrics
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": iso_time(int(self._started_s * 1e9)),
            "started_ns": int(self._started_s * 1e9),
            "stopping": self._stopping.is_set(),
            "hosts_not_configured": [{"domain": host.domain, "pid": host.pid} for host in self._unconfigured.found],
            "alarms": [alarm_json(alarm) for alarm in self.alarms()],
            "alarms_ended": [alarm_json(alarm) for alarm in self._own_alarms.ended],
            "metrics": None if metrics is None else f"http://{metrics.address}/metrics",
        }


def run_drva(
    config: DrvaConfig,
    *,
    create: bool,
    take_over: Collection[str],
    give_up_from: Mapping[str, int] | None = None,
    discard_log: Mapping[str, str] | None = None,
    on_mismatch: Mapping[str, OnMismatch] | None = None,
    begin_anew: Mapping[str, UUID] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT. A second signal ends the uploads. SIGHUP reloads the configuration.

    If a domain hangs, the process ends without it, with exit code 1: Python would wait for its threads.
    """
    with logging_to_stderr(config.log_level, as_json=config.log_format == "json", secrets=_secrets(config)):
        drva = Drva(
            config,
            create=create,
            take_over=take_over,
            give_up_from=give_up_from,
            discard_log=discard_log,
            on_mismatch=on_mismatch,
            begin_anew=begin_anew,
            notifier=Notifier(),
        )
        asyncio.run(_until_signalled(drva))


async def _until_signalled(drva: Drva) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drva.stop)
    reloads: set[asyncio.Future[None]] = set()
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(asyncio.ensure_future(drva.reload())))
    await drva.run()
    if drva.hanging:
        logging.shutdown()
        os._exit(1)


def _checked_config(file: str) -> DrvaConfig:
    check_guarded("the configuration", Path(file))
    config = load_config(file)
    check_places(config)
    return config


def _secrets(config: DrvaConfig) -> list[str]:
    """Return the texts that must not appear in a log line."""
    found = [os.environ.get(name) for name in (*secret_variables(), PASSWORD_VARIABLE)]
    for domain in config.domains:
        found += credential_secrets(Path(domain.credential_file)) if domain.credential_file else []
    found += [options_of(IscsiLun(v.path, Path(v.password_file))).password for v in config.volumes if v.password_file]
    return [secret for secret in found if secret]


@contextmanager
def _sole_use(path: Path) -> Iterator[None]:
    """Hold the runtime directory, which only this user may enter. DrvaBusy if another DRVA holds it."""
    make_private("runtime_dir", path)
    with making(path / LOCK_NAME, "making the lock of the runtime directory"):
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            lock_file(lock, path / LOCK_NAME)
        except DeviceBusy:
            raise DrvaBusy(f"another DRVA runs in {path}", hint="stop it, or use another runtime_dir") from None
        yield
    finally:
        os.close(lock)
