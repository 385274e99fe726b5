"""Runs fio against an NBD export: the sections of nbd.fio, and a steady offered rate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import PeerMissing

__all__ = ["Offered", "Written", "program", "verify_section", "write_randomly", "write_section"]

JOBS = Path(__file__).resolve().parent / "nbd.fio"


@dataclass(frozen=True, slots=True)
class Written:
    """What fio reports of its writes. Latencies are from submission to completion."""

    iops: float
    p50_us: float
    p99_us: float
    seconds: float
    bytes: int
    flushes: int


def program(name: str) -> str:
    """Return the path of a program, also if only root has it on the path. PeerMissing names a program not installed."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        raise PeerMissing(f"{name} is not installed")
    return found


def write_section(section: str, uri: str, size_bytes: int, seed: int, work: Path) -> Written:
    """Run one section of the job file, which writes each block of the first ``size_bytes`` once."""
    return _written(_run([f"--section={section}", str(JOBS)], _environment(uri, size_bytes, seed), work))


def verify_section(section: str, uri: str, size_bytes: int, seed: int, work: Path) -> None:
    """Read back through the export, and compare, what :func:`write_section` wrote with the same arguments."""
    _run(["--verify_only", f"--section={section}", str(JOBS)], _environment(uri, size_bytes, seed), work)


def write_randomly(uri: str, size_bytes: int, depth: int, seconds: float, seed: int, work: Path) -> Written:
    """Write 4 KiB at random places of the first ``size_bytes``, with ``depth`` writes in flight, for ``seconds``."""
    command = ["--name=random", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k", f"--iodepth={depth}"]
    command += ["--norandommap", f"--size={size_bytes}", "--time_based", f"--runtime={int(seconds * 1000)}ms"]
    return _written(_run([*command, f"--randseed={seed}", "--percentile_list=50:99"], {}, work))


class Offered:
    """64 KiB writes at random places, offered at a steady rate. Half of each write's bytes are compressible."""

    def __init__(self, uri: str, size_bytes: int, bytes_per_s: float, seconds: float, work: Path) -> None:
        command = [program("fio"), "--output-format=json", "--name=offered", "--ioengine=nbd", f"--uri={uri}"]
        command += ["--rw=randwrite", "--bs=64k", "--iodepth=8", "--norandommap", f"--size={size_bytes}"]
        command += [f"--rate={int(bytes_per_s)}", "--time_based", f"--runtime={seconds:g}", "--percentile_list=50:99"]
        command += ["--refill_buffers", "--buffer_compress_percentage=50", "--buffer_compress_chunk=512"]
        self._report = work / "offered.json"
        with self._report.open("wb") as report:
            self._process = subprocess.Popen(command, cwd=work, stdout=report, stderr=subprocess.STDOUT)

    def running(self, wait_s: float) -> bool:
        """Wait at most ``wait_s`` for fio's end. Return whether fio still runs."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return True
        return False

    def written(self) -> Written:
        """Return what fio wrote. Call it after fio has ended."""
        said = self._report.read_text()
        if self._process.returncode:
            raise RuntimeError(f"fio: {said[:500]}")
        return _written(said[said.index("{") :])

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def _environment(uri: str, size_bytes: int, seed: int) -> dict[str, str]:
    return {"URI": uri, "SIZE": str(size_bytes), "SEED": str(seed)}


def _run(arguments: Sequence[str], environment: Mapping[str, str], work: Path) -> str:
    """Run fio and return its JSON. RuntimeError holds an error of fio's or of the export's."""
    command = [program("fio"), "--output-format=json", *arguments]
    done = subprocess.run(
        command, cwd=work, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(f"fio {' '.join(arguments)}: {done.stderr.strip() or done.stdout[:500]}")
    return done.stdout[done.stdout.index("{") :]


def _written(report: str) -> Written:
    job = json.loads(report)["jobs"][0]
    write = job["write"]
    percentiles = write["clat_ns"]["percentile"]
    return Written(
        iops=write["iops"],
        p50_us=percentiles["50.000000"] / 1000,
        p99_us=percentiles["99.000000"] / 1000,
        seconds=write["runtime"] / 1000,
        bytes=write["io_bytes"],
        flushes=job["sync"]["total_ios"],
    )
