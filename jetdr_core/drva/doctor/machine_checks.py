"""Checks of the machine itself: clock, kernel, programs, libraries, Python packages, systemd unit."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from jetdr_core import __version__
from jetdr_core.child_environment import child_environment
from jetdr_core.device import is_iscsi
from jetdr_core.drva.config import DrvaConfig
from jetdr_core.drva.doctor.finding import Check, Finding, NotKnown, doubtful, good, unchecked, wrong
from jetdr_core.host import PLUGIN_PATH

__all__ = ["machine_checks"]

UNIT = "jetdr-drva.service"
KERNEL_LEAST = (5, 3)
"""The first kernel with pidfd_open, by which a host component is ended and no other process."""

_PROGRAM_LIMIT_S = 10.0
_CLOCK_ERROR = 5  # TIME_ERROR of <sys/timex.h>
_TIMEX_BYTES = 512  # more than any struct timex has; its first field, modes, is 0: nothing is set


def machine_checks(config: DrvaConfig | None) -> Iterator[Check]:
    """Checks that need no configuration, and with one, those of the programs that it names."""
    nbdkit = "nbdkit" if config is None else config.nbdkit
    yield Check("engine", partial(good, f"jetdr_core {__version__}, Python {platform.python_version()}"))
    yield Check("Python packages", _look_at_packages)
    yield Check("kernel", _look_at_kernel)
    yield Check("clock", _look_at_clock)
    yield Check("nbdkit", partial(_look_at_nbdkit, nbdkit))
    yield Check("nbdkit plugin", partial(_look_at_plugin, nbdkit), needs=("nbdkit",))
    if config is not None and any(is_iscsi(volume.path) for volume in config.volumes):
        yield Check("libiscsi", _look_at_iscsi)
    yield Check("systemd unit", partial(_look_at_unit, "" if config is None else config.file))


def _look_at_packages() -> Finding:
    try:
        needed = importlib.metadata.requires("jetdr_core") or []
    except importlib.metadata.PackageNotFoundError:
        return doubtful("jetdr_core is not installed as a package", "install it with pip, so that its needs are known")
    names = [match[0] for text in needed if (match := re.match(r"[A-Za-z0-9_.-]+", text))]
    missing, found = [], []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return wrong(f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return good(", ".join(found))


def _look_at_kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if numbers < KERNEL_LEAST:
        return wrong(f"Linux {release} lacks pidfd_open", f"use Linux {KERNEL_LEAST[0]}.{KERNEL_LEAST[1]} or newer")
    return good(f"Linux {release}")


def _look_at_clock() -> Finding:
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state < 0:
        return unchecked(
            f"adjtimex: {os.strerror(ctypes.get_errno())}", "look with 'timedatectl' or 'chronyc tracking'"
        )
    if state == _CLOCK_ERROR:
        return doubtful(
            "the kernel's clock is not synchronised, so record times may be wrong", "run chrony or systemd-timesyncd"
        )
    return good("the kernel's clock is synchronised")


def _look_at_nbdkit(nbdkit: str) -> Finding:
    if shutil.which(nbdkit) is None:
        return wrong(f"{nbdkit!r} is not found", "install nbdkit, or name it as nbdkit in [drva]")
    ended = _run([nbdkit, "--version"])
    if ended.returncode:
        return wrong(f"{nbdkit} --version ended with {ended.returncode}", "install nbdkit anew")
    return good(ended.stdout.strip())


def _look_at_plugin(nbdkit: str) -> Finding:
    if not PLUGIN_PATH.exists():
        return wrong(
            f"{PLUGIN_PATH} is missing: this jetdr_core was built without the host component",
            "install nbdkit, nbdkit-plugin-dev and gcc, and build jetdr_core here",
        )
    if shutil.which(nbdkit) is None:
        raise NotKnown(f"{PLUGIN_PATH} is there, and cannot be tried")
    ended = _run([nbdkit, "--dump-plugin", str(PLUGIN_PATH)])
    if ended.returncode:
        return wrong(
            f"nbdkit does not load {PLUGIN_PATH}: {_last_line(ended.stderr)}", "build jetdr_core on this machine"
        )
    return good(str(PLUGIN_PATH))


def _look_at_iscsi() -> Finding:
    try:
        import jetdr_core._iscsi  # noqa: F401, PLC0415
    except ImportError as error:
        return wrong(f"logs on LUNs cannot be opened: {error}", "install libiscsi7, and a jetdr_core built with iSCSI")
    return good("logs on LUNs can be opened")


def _look_at_unit(config_file: str) -> Finding:
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return unchecked("systemd does not run here", "see that something else restarts the DRVA")
    names = ("LoadState", "ActiveState", "Result", "UnitFileState", "ExecStart", "ProtectSystem")
    ended = _run(["systemctl", "show", UNIT, *(f"--property={name}" for name in names)])
    found = dict(line.split("=", 1) for line in ended.stdout.splitlines() if "=" in line)
    if found.get("LoadState") != "loaded":
        return doubtful(f"{UNIT} is not installed", "install packaging/jetdr-drva.service")
    if found.get("ActiveState") == "failed":
        return wrong(f"{UNIT} has failed: {found.get('Result')}", f"journalctl -u {UNIT}; systemctl restart {UNIT}")
    if config_file and config_file not in found.get("ExecStart", ""):
        return doubtful(
            f"{UNIT} does not start {config_file}", f"examine the file that ExecStart names: systemctl cat {UNIT}"
        )
    if found.get("UnitFileState") not in {"enabled", "static"}:
        return doubtful(
            f"{UNIT} is {found.get('UnitFileState')}: it does not start at boot", f"systemctl enable {UNIT}"
        )
    return good(f"{UNIT} is {found.get('ActiveState')}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program that answers at once, and changes nothing."""
    return subprocess.run(
        command,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PROGRAM_LIMIT_S,
        check=False,
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
