"""The native checksum, as it is compiled for each processor, against the xxhash package."""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import xxhash

NATIVE = Path(__file__).parents[2] / "native"
LENGTHS = [*range(1, 300, 7), 511, 512, 513, 1023, 1024, 4096, 4608, 65536, 100_001]
PIECES_OF = """
#include "checksum.h"
uint64_t in_pieces(void (*more)(XXH3_state_t *, const void *, size_t), const char *data, size_t length, size_t piece)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (size_t at = 0; at < length; at += piece)
        more(&state, data + at, length - at < piece ? length - at : piece);
    return XXH3_64bits_digest(&state);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("checksum")
    (folder / "pieces.c").write_text(PIECES_OF)
    sources = [folder / "pieces.c", NATIVE / "checksum.c", NATIVE / "checksum_avx2.c"]
    flags = ["-std=c11", "-O2", "-shared", "-fPIC", "-DXXH_INLINE_ALL", f"-I{NATIVE}"]
    subprocess.run(["gcc", *flags, "-o", folder / "checksum.so", *sources], check=True)
    library = ctypes.CDLL(str(folder / "checksum.so"))
    library.in_pieces.restype = ctypes.c_uint64
    return library


def _processors() -> list[str]:
    flags = Path("/proc/cpuinfo").read_text().split()
    return ["any", "avx2"] if "avx2" in flags else ["any"]


@pytest.mark.parametrize("processor", _processors())
def test_every_length_and_alignment(library: ctypes.CDLL, processor: str) -> None:
    checksum: Callable[..., int] = getattr(library, f"jdr_checksum_{processor}")
    checksum.restype = ctypes.c_uint64  # type: ignore[attr-defined]
    data = random.Random(1).randbytes(max(LENGTHS) + 64)
    memory = ctypes.create_string_buffer(data, len(data))
    for length in LENGTHS:
        for shift in (0, 1, 31):
            at = ctypes.c_void_p(ctypes.addressof(memory) + shift)
            assert checksum(at, ctypes.c_size_t(length)) == xxhash.xxh3_64_intdigest(data[shift : shift + length])


@pytest.mark.parametrize("processor", _processors())
@pytest.mark.parametrize("piece", [1, 63, 64, 255, 256, 257, 4096, 65_537])
def test_every_piece(library: ctypes.CDLL, processor: str, piece: int) -> None:
    checksum = partial(library.in_pieces, getattr(library, f"jdr_checksum_more_{processor}"))
    data = random.Random(piece).randbytes(100_001)
    for length in (piece, 3 * piece + 1, 99_999, len(data)):
        taken = data[:length]
        assert checksum(taken, ctypes.c_size_t(len(taken)), ctypes.c_size_t(piece)) == xxhash.xxh3_64_intdigest(taken)


def test_this_processor_has_its_own(library: ctypes.CDLL) -> None:
    chosen = ctypes.c_void_p.in_dll(library, "jdr_checksum").value
    best = getattr(library, f"jdr_checksum_{_processors()[-1]}")
    assert chosen == ctypes.cast(best, ctypes.c_void_p).value
