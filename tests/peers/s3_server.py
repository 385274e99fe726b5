"""moto's S3 server, the peer of the S3 store in tests. It keeps its objects in memory, on a free loopback port.

It answers one request at a time, because its check of ``If-None-Match`` and its write are two steps.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

_SERVER = """
import logging
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
print(server.server_port, flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class S3Server:
    """A running server. It takes any credential. ``key`` is random, so that a leaked secret can be told."""

    port: int
    key: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return the variables with which ``s3://BUCKET`` means this server, perhaps through a proxy's ``port``."""
        return {
            "AWS_ACCESS_KEY_ID": "jetdrtest",
            "AWS_SECRET_ACCESS_KEY": self.key,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port or self.port}",
        }

    def put(self, path: str, body: bytes = b"") -> None:
        """Make a bucket, ``/BUCKET``, or an object of any name in one."""
        self._ask("PUT", path, body)

    def delete(self, path: str) -> None:
        self._ask("DELETE", path)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=30):
            pass


@contextlib.contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Start a server, and stop it at the end."""
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield S3Server(int(server.stdout.readline()))
        finally:
            server.kill()
