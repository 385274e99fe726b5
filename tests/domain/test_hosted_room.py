"""Write-back, a log full of what the primaries have taken but nobody has flushed, and all is killed."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.domain.hosted import Drva, Machine, machine, until
from tests.host.nbd_client import NbdClient

PIECE_BYTES = 256 << 10
FILLED_BYTES = 7 << 20
"""Of a log of 8 MiB. A host component flushes its primaries each second, which is longer than this takes."""

MORE_BYTES = 2 << 20


def test_a_full_log_whose_host_component_died_takes_what_the_ring_still_holds(peer: Callable[[str], str]) -> None:
    """The log gets room when the primaries are flushed, which a dead host component does not do."""
    peer("nbdkit")
    with machine(write_back=True) as made, Drva(made, "create") as drva:
        with made.client() as client:
            last = fill(client)
            until(lambda: has(made, last))
            drva.signal(signal.SIGSTOP)
            client.write(0, b"m" * MORE_BYTES)  # acknowledged by the ring
        made.kill_host()
        drva.kill()
        with Drva(made, "open") as again:
            again.ask("wait")
            assert again.ask("equal")
            assert made.primary().read_bytes()[:MORE_BYTES] == b"m" * MORE_BYTES
            again.close(stop_host=True)


def fill(client: NbdClient) -> tuple[int, bytes]:
    """Durable in the log; the last place, and what was written there."""
    at, data = 0, b""
    for number in range(FILLED_BYTES // PIECE_BYTES):
        at, data = number * PIECE_BYTES % (4 << 20), bytes([number + 1]) * PIECE_BYTES
        client.write(at, data)
    client.flush()
    return at, data


def has(made: Machine, written: tuple[int, bytes]) -> bool:
    at, data = written
    return made.primary().read_bytes()[at:][: len(data)] == data
