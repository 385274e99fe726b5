"""Azurite: Microsoft's own Azure Storage emulator, the real peer of the Azure store in tests and benchmarks.

npm installs it into ``.peers/`` of the repository. It listens on a free loopback port and keeps its objects in memory.
The key of its account is random, so that a leaked secret can be told from other text.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from fcntl import LOCK_EX, flock
from pathlib import Path

VERSION = "3.37.0"
ACCOUNT = "jetdrtest"
PEERS = Path(__file__).resolve().parents[2] / ".peers"

_LISTENS = re.compile(r"successfully listens on (http://127\.0\.0\.1:(\d+))")


class PeerMissing(Exception):
    """Node or npm is not installed."""


@dataclass(frozen=True)
class Azurite:
    """A running server. ``key`` is that of its account, random per run."""

    port: int
    key: str = field(repr=False)
    account: str = ACCOUNT

    @property
    def endpoint(self) -> str:
        return self.endpoint_at(self.port)

    def endpoint_at(self, port: int) -> str:
        """Return the URL of the same server through another port, that of a proxy."""
        return f"http://127.0.0.1:{port}/{self.account}"

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return the variables with which ``az://CONTAINER`` means this server."""
        return {
            "AZURE_STORAGE_ACCOUNT": self.account,
            "AZURE_STORAGE_KEY": self.key,
            "AZURE_STORAGE_SERVICE_ENDPOINT": self.endpoint_at(port or self.port),
        }

    @property
    def connection_string(self) -> str:
        account = f"AccountName={self.account};AccountKey={self.key}"
        return f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={self.endpoint};"


def install() -> Path:
    """Return the path of the server's program, and install it if needed. Several processes may call this at once."""
    program = PEERS / "node_modules" / ".bin" / "azurite-blob"
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise PeerMissing("node and npm are not installed; Azurite needs them")
    PEERS.mkdir(exist_ok=True)
    with (PEERS / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not program.exists():
            command = ["npm", "install", "--prefix", str(PEERS), "--no-audit", "--no-fund", f"azurite@{VERSION}"]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
    return program


@contextlib.contextmanager
def running_azurite() -> Iterator[Azurite]:
    """Start a server, and stop it at the end. Raises :class:`PeerMissing` if it cannot be installed here."""
    key = base64.b64encode(secrets.token_bytes(64)).decode()
    command = [str(install()), "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]
    command += ["--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    environment = os.environ | {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True, cwd=PEERS) as server:
        try:
            yield Azurite(_port(server), key)
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=5)
            server.kill()


def _port(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    said = ""
    for line in server.stdout:
        said += line
        if match := _LISTENS.search(line):
            return int(match[2])
    raise RuntimeError(f"Azurite did not start: {said}")
