"""DrvaConfig: the configuration of a DRVA, read from one TOML file and checked before anything starts.

Invariants: packaging/drva.example.toml names every option. An unknown key, a value out of range and a thing named twice
are errors.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import tomllib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import UUID

from jetdr_core.device.iscsi_url import IscsiUrl, is_iscsi
from jetdr_core.domain import OnMismatch
from jetdr_core.drva.toml_table import Table
from jetdr_core.errors import InvalidRequest
from jetdr_core.file_making import read_regular_file
from jetdr_core.host import HostComponent, HostOptions
from jetdr_core.identity import check_config_name, check_name
from jetdr_core.limits import DISK_BYTES_MAX, DISKS_MAX, SECTION_BYTES_DEFAULT, SECTION_BYTES_MIN, SECTIONS_MAX
from jetdr_core.options import DomainOptions
from jetdr_core.patience import PLACE_LIMIT_S, each_within
from jetdr_core.store import is_lasting_url, url_forms

__all__ = ["Address", "DiskConfig", "DomainConfig", "DrvaConfig", "VolumeConfig", "load_config"]

T = TypeVar("T")

_FILE_BYTES_MAX = 16 << 20
RUNTIME_DIR = "/run/jetdr"
LOCK_NAME = "drva.lock"
"""The file in the runtime directory that a running DRVA holds locked."""
SOCKET_PATH_BYTES_MAX = 107
"""The longest path of a Unix socket that the kernel accepts."""

WRITE_THROUGH, WRITE_BACK = "write-through", "write-back"


class Address(NamedTuple):
    """A TCP address to listen at."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeConfig:
    """A log volume. ``path`` is a file, a block device, or an ``iscsi://`` URL."""

    name: str
    path: str
    password_file: str = ""


SCRUB_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskConfig:
    """A disk that is protected whenever the domain opens, unless ``jetdr unprotect`` gave it up.

    With ``size_bytes``, a missing file is made of that size.
    """

    name: str
    path: str
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainConfig:
    """A protected domain. ``host`` says how its host component runs. ``scrub_s``: how often a scrub is made, 0: never.

    ``create``: create the domain if its store is empty. ``key_file`` is the file with its key. If the configuration
    names none, it is the one that the DRVA makes when it creates the domain. ``take_over``: continue after what the
    store holds, with a new log. ``give_up_from``: the number of a lost object; the take-over gives up what the store
    holds after it. ``discard_log``: a log that the take-over may give up although it is sound. ``on_mismatch``: what
    to do in write-back if log, store, state and disks do not belong together. ``begin_anew``: the UUID of a lost domain
    of this name, which is given up for a new one. Only the command line can ask for the last five, never the file.
    """

    name: str
    volume: VolumeConfig
    store: str
    section_bytes: int
    create: bool
    rpo_alarm_s: float
    host: HostOptions
    options: DomainOptions
    disk: tuple[DiskConfig, ...]
    scrub_s: float = SCRUB_S
    config_files: tuple[str, ...] = ()
    credential_file: str = ""
    key_file: str = ""
    take_over: bool = False
    give_up_from: int | None = None
    discard_log: str | None = None
    on_mismatch: OnMismatch = OnMismatch.REFUSE
    begin_anew: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrvaConfig:
    """The whole appliance. ``metrics`` is None if no metrics are served. ``file`` is where it was read."""

    runtime_dir: Path
    state_dir: Path
    control_socket: Path
    metrics: Address | None
    log_level: str
    log_format: str
    nbdkit: str
    hosts_on_stop: str
    file: str = ""
    volumes: tuple[VolumeConfig, ...] = ()
    domains: tuple[DomainConfig, ...] = ()


def load_config(path: str | os.PathLike[str]) -> DrvaConfig:
    """Read and check the file at ``path``. Raises :class:`InvalidRequest`, and ``OSError`` if it cannot be read."""
    name = os.fspath(path)
    try:
        content = tomllib.loads(read_regular_file(path, _FILE_BYTES_MAX).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{name} is not TOML: {error}", hint="see packaging/drva.example.toml") from None
    top = Table(name, content)
    drva = _drva(top.table("drva"))
    volumes = tuple(_volume(table) for table in top.tables("volume"))
    _refuse_twice(name, "volume", lambda volume: volume.name, volumes)
    domains = tuple(_domain(table, drva, volumes) for table in top.tables("domain"))
    top.finish()
    config = replace(drva, file=name, volumes=volumes, domains=domains)
    _check(name, config)
    return config


# -- tables ------------------------------------------------------------------------------------------------------------


def _drva(table: Table) -> DrvaConfig:
    runtime_dir = Path(table.path("runtime_dir", RUNTIME_DIR))
    config = DrvaConfig(
        runtime_dir=runtime_dir,
        state_dir=Path(table.path("state_dir", "/var/lib/jetdr")),
        control_socket=Path(table.path("control_socket", "") or runtime_dir / "control.sock"),
        metrics=_loopback(table, "metrics"),
        log_level=table.choice("log_level", ("debug", "info", "warning", "error"), "info"),
        log_format=table.choice("log_format", ("json", "console"), "console"),
        nbdkit=table.text("nbdkit", "nbdkit"),
        hosts_on_stop=table.choice("hosts_on_stop", ("keep", "stop"), "keep"),
    )
    table.finish()
    if len(os.fsencode(config.control_socket)) > SOCKET_PATH_BYTES_MAX:
        raise table.wrong("control_socket", str(config.control_socket), f"use at most {SOCKET_PATH_BYTES_MAX} bytes")
    return config


def _volume(table: Table) -> VolumeConfig:
    path, password_file = table.text("path"), table.path("password_file", "")
    volume = VolumeConfig(name=_name(table), path=path, password_file=password_file)
    table.finish()
    if not is_iscsi(path) and (not Path(path).is_absolute() or "://" in path):
        raise table.wrong("path", path, "use the absolute path of a file or block device, or iscsi://HOST/IQN/LUN")
    try:
        user = IscsiUrl.parse(path).user if is_iscsi(path) else None
    except InvalidRequest as error:
        raise InvalidRequest(f"{table.place}: {error}") from None
    if password_file and user is None:
        raise table.wrong("password_file", password_file, "name its user in the path: iscsi://USER@HOST/IQN/LUN")
    return volume


def _domain(table: Table, drva: DrvaConfig, volumes: tuple[VolumeConfig, ...]) -> DomainConfig:
    name, options = _name(table), _options(table.table("options"))
    domain = DomainConfig(
        name=name,
        volume=_volume_of(table, volumes),
        store=_store(table),
        section_bytes=table.whole("section_bytes", SECTION_BYTES_DEFAULT, least=SECTION_BYTES_MIN, most=1 << 50),
        create=table.flag("create", default=False),
        rpo_alarm_s=table.number("rpo_alarm_s", 60.0, least=0.1, most=1e9),
        scrub_s=table.number("scrub_s", SCRUB_S, least=0, most=1e9),
        host=_host(table, drva, name, options),
        options=options,
        disk=tuple(_disk(disk) for disk in table.tables("disk")),
        config_files=_config_files(table),
        credential_file=table.path("credential_file", ""),
        key_file=table.path("key_file", ""),
    )
    table.finish()
    if domain.credential_file and domain.store.startswith("file:"):
        raise table.wrong("credential_file", domain.credential_file, "a store in a directory has no credential")
    if len(domain.disk) > DISKS_MAX:
        raise InvalidRequest(f"{table.place}: {len(domain.disk)} disks", hint=f"a domain has at most {DISKS_MAX}")
    return domain


def _config_files(table: Table) -> tuple[str, ...]:
    """The paths of configuration files that are kept. A recovery writes them to one folder, so their names differ."""
    paths = table.texts("config_files")
    for path in paths:
        if not Path(path).is_absolute():
            raise table.wrong("config_files", path, "write absolute paths")
        try:
            check_config_name(os.path.basename(path))
        except InvalidRequest as error:
            raise InvalidRequest(f"{table.place}: {error}") from None
    _refuse_twice(table.place, "name of config_files", os.path.basename, paths)
    return paths


def _host(table: Table, drva: DrvaConfig, name: str, options: DomainOptions) -> HostOptions:
    listen = _address(table, "listen")
    try:
        host = HostOptions(
            runtime=str(drva.runtime_dir),
            state=str(drva.state_dir),
            listen=str(listen or ""),
            nbdkit=drva.nbdkit,
            arguments=table.texts("nbdkit_args"),
            stall_limit_s=options.stall_limit_s,
            write_back=table.choice("mode", (WRITE_THROUGH, WRITE_BACK), WRITE_THROUGH) == WRITE_BACK,
        )
        HostComponent(name, host)  # checks that the paths of its sockets are short enough
    except InvalidRequest as error:
        raise InvalidRequest(f"{table.place}: {error}") from None
    return host


def _disk(table: Table) -> DiskConfig:
    size_bytes = table.whole("size_bytes", 0, least=0, most=DISK_BYTES_MAX)
    disk = DiskConfig(name=_name(table), path=table.path("path"), size_bytes=size_bytes or None)
    table.finish()
    return disk


def _options(table: Table) -> DomainOptions:
    """Read DomainOptions by their own names and bounds. A bandwidth of 0 means no limit."""
    default = DomainOptions()
    given: dict[str, int | float | bool | str | None] = {}
    for field in fields(DomainOptions):
        value = getattr(default, field.name)
        if isinstance(value, str):
            given[field.name] = table.path(field.name, value)
        elif isinstance(value, bool):
            given[field.name] = table.flag(field.name, default=value)
        elif isinstance(value, int):
            given[field.name] = table.whole(field.name, value, least=0, most=1 << 62)
        else:
            given[field.name] = table.number(field.name, value or 0.0, least=0.0, most=1e18)
    table.finish()
    given["bandwidth_bytes_per_s"] = given["bandwidth_bytes_per_s"] or None
    try:
        return DomainOptions(**given)  # type: ignore[arg-type]
    except InvalidRequest as error:
        raise InvalidRequest(f"{table.place}: {error}") from None


# -- values ------------------------------------------------------------------------------------------------------------


def _name(table: Table) -> str:
    try:
        return check_name(table.place.rpartition(": ")[2].partition(" ")[0], table.text("name"))
    except InvalidRequest as error:
        raise InvalidRequest(f"{table.place}: {error}") from None


def _volume_of(table: Table, volumes: Iterable[VolumeConfig]) -> VolumeConfig:
    wanted = table.text("volume")
    for volume in volumes:
        if volume.name == wanted:
            return volume
    known = ", ".join(volume.name for volume in volumes) or "none"
    raise table.wrong("volume", wanted, f"name a [[volume]] of this file; there are: {known}")


def _store(table: Table) -> str:
    url = table.text("store")
    if not is_lasting_url(url):
        raise table.wrong("store", url, f"use {url_forms(lasting=True)}")
    return url


def _address(table: Table, key: str) -> Address | None:
    """Read ``HOST:PORT`` or ``[HOST]:PORT``. None stands for an empty text."""
    value = table.text(key, "")
    if not value:
        return None
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise table.wrong(key, value, 'use HOST:PORT, or "" for none')
    return Address(host, int(port))


def _loopback(table: Table, key: str) -> Address | None:
    address = _address(table, key)
    if address is None:
        return None
    try:
        loopback = address.host == "localhost" or ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise table.wrong(
            key, str(address), "metrics are served to this machine only: use 127.0.0.1:PORT or [::1]:PORT"
        )
    return Address("127.0.0.1", address.port) if address.host == "localhost" else address


# -- things named twice ------------------------------------------------------------------------------------------------


def _check(file: str, config: DrvaConfig) -> None:
    domains = config.domains
    if not domains:
        raise InvalidRequest(f"{file} names no domain", hint="write a [[domain]]; see packaging/drva.example.toml")
    if len(domains) > SECTIONS_MAX:
        raise InvalidRequest(f"{file} names {len(domains)} domains", hint=f"one DRVA has at most {SECTIONS_MAX}")
    disks = [(domain, disk) for domain in domains for disk in domain.disk]
    _refuse_twice(file, "domain", lambda domain: domain.name, domains)
    _refuse_twice(file, "store", lambda domain: domain.store.rstrip("/"), domains)
    _refuse_twice(
        file, "listen", lambda listen: listen, [domain.host.listen for domain in domains if domain.host.listen]
    )
    _refuse_twice(file, "disk of a domain", lambda pair: f"{pair[0].name}/{pair[1].name}", disks)
    named = [*(disk.path for _, disk in disks), *(volume.path for volume in config.volumes)]
    named += [str(config.control_socket), *_own_places(config)]
    _refuse_twice(file, "path", itemgetter(1), zip(named, _true_paths(named), strict=True))
    _refuse_one_under_two_names(file, named)


def _own_places(config: DrvaConfig) -> set[str]:
    """Return what the DRVA makes in its directories, and the password and key files that it reads."""
    names = [domain.name for domain in config.domains]
    made = {str(folder / name) for folder in (config.runtime_dir, config.state_dir) for name in names}
    passwords = {volume.password_file for volume in config.volumes if volume.password_file}
    passwords |= {domain.credential_file for domain in config.domains if domain.credential_file}
    keys = {domain.key_file for domain in config.domains if domain.key_file}
    return made | passwords | keys | {str(config.runtime_dir / LOCK_NAME)}


def _refuse_twice(file: str, what: str, key: Callable[[T], Hashable], things: Iterable[T]) -> None:
    seen = set()
    for thing in things:
        value = key(thing)
        if value in seen:
            raise InvalidRequest(f"{file}: {what} {str(value)!r} is named twice", hint="name each thing once")
        seen.add(value)


def _refuse_one_under_two_names(file: str, paths: Sequence[str]) -> None:
    """Refuse two hard links of a file, and two nodes of a device. A path that hangs is passed over."""
    seen: dict[str, str] = {}
    for path, answer in zip(paths, each_within(PLACE_LIMIT_S, _identity, paths), strict=True):
        identity = answer.result() if answer.done() else ""
        if identity and identity in seen:
            raise InvalidRequest(
                f"{file}: {seen[identity]!r} and {path!r} are one {identity}", hint="name each file and device once"
            )
        seen[identity] = path


def _identity(path: str) -> str:
    """What tells a device, or a file with several names, from all others. Empty for anything else."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    if stat.S_ISBLK(status.st_mode):
        return f"device ({os.major(status.st_rdev)}:{os.minor(status.st_rdev)})"
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return f"file (inode {status.st_ino} of device {status.st_dev})"
    return ""


def _true_paths(paths: Sequence[str]) -> Iterator[str]:
    """Give what each path or URL leads to: the same text for all that lead there. One that hangs leads to itself."""
    for path, answer in zip(paths, each_within(PLACE_LIMIT_S, _true_path, paths), strict=True):
        yield answer.result() if answer.done() else path


def _true_path(path: str) -> str:
    return "/".join(map(str, IscsiUrl.parse(path).identity)) if is_iscsi(path) else os.path.realpath(path)
