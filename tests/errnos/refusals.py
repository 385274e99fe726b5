"""A library that makes a chosen call of the C library fail with a chosen errno, in the thread that asks for it.

So a walk over calls and errnos needs one process, and no file system that really fails.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CALLS = {
    "open": "int {n}(const char *a, int b, ...)",
    "openat": "int {n}(int d, const char *a, int b, ...)",
    "fsync": "int {n}(int a)",
    "fdatasync": "int {n}(int a)",
    "write": "long {n}(int a, const void *b, unsigned long c)",
    "read": "long {n}(int a, void *b, unsigned long c)",
    "pwrite": "long {n}(int a, const void *b, unsigned long c, long d)",
    "pread": "long {n}(int a, void *b, unsigned long c, long d)",
    "pwritev": "long {n}(int a, const void *b, int c, long d)",
    "preadv": "long {n}(int a, const void *b, int c, long d)",
    "ftruncate": "int {n}(int a, long b)",
    "fallocate": "int {n}(int a, int b, long c, long d)",
    "lseek": "long {n}(int a, long b, int c)",
    "mkdir": "int {n}(const char *a, unsigned b)",
    "unlink": "int {n}(const char *a)",
    "rename": "int {n}(const char *a, const char *b)",
    "link": "int {n}(const char *a, const char *b)",
    "flock": "int {n}(int a, int b)",
    "stat": "int {n}(const char *a, void *b)",
    "lstat": "int {n}(const char *a, void *b)",
    "fstat": "int {n}(int a, void *b)",
    "statvfs": "int {n}(const char *a, void *b)",
    "fstatvfs": "int {n}(int a, void *b)",
    "socket": "int {n}(int a, int b, int c)",
    "bind": "int {n}(int a, const void *b, unsigned c)",
    "listen": "int {n}(int a, int b)",
    "connect": "int {n}(int a, const void *b, unsigned c)",
    "getxattr": "long {n}(const char *a, const char *b, void *c, unsigned long d)",
    "setxattr": "int {n}(const char *a, const char *b, const void *c, unsigned long d, int e)",
}
"""Declarations, with ``{n}`` for the name. Files have a second name each, for long offsets."""

_HEAD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
static __thread int watched, refused = -1, code, after;
static __thread long made[64];
void jdr_watch(int on) { watched = on; for (int i = 0; i < 64; i++) made[i] = 0; }
long jdr_made(int which) { return made[which]; }
void jdr_refuse(int which, int number, int skipped) { refused = which; code = number; after = skipped; }
static int meets(int which)
{
    if (!watched)
        return 0;
    made[which]++;
    if (which != refused || after-- > 0)
        return 0;
    errno = code;
    return 1;
}
"""


def _source() -> str:
    parts = [_HEAD]
    for number, (call, declared) in enumerate(CALLS.items()):
        for name in (call, f"{call}64"):
            head = declared.format(n=name)
            kind = head.split(" ", 1)[0]
            names = [one.split()[-1].lstrip("*") for one in head[head.index("(") + 1 : -1].split(", ") if one != "..."]
            mode, more = ("va_list v; va_start(v, b); unsigned m = va_arg(v, unsigned); va_end(v);", ", m")
            is_open = "..." in head
            types = head[head.index("(") + 1 : -1]
            parts.append(
                f"{head}\n{{ {mode if is_open else ''} static {kind} (*real)({types});\n"
                f'  if (!real) real = ({kind} (*)({types}))dlsym(RTLD_NEXT, "{name}");\n'
                f"  return meets({number}) ? -1 : real({', '.join(names)}{more if is_open else ''}); }}"
            )
    return "\n".join(parts)


def build(folder: Path) -> Path:
    """Compile the library. A process that is to use it is started with it in ``LD_PRELOAD``."""
    source, library = folder / "refusals.c", folder / "refusals.so"
    source.write_text(_source())
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-O1", "-o", library, source], check=True)
    return library


class Refusals:
    """The library of this process, which was started with it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"].split()[0])

    @contextmanager
    def watching(self) -> Iterator[dict[str, int]]:
        """Fill a table: how often the body makes each call."""
        made: dict[str, int] = {}
        self._library.jdr_watch(1)
        try:
            yield made
        finally:
            made.update({call: self._library.jdr_made(number) for number, call in enumerate(CALLS)})
            self._library.jdr_watch(0)

    @contextmanager
    def refusing(self, call: str, errno: int, *, after: int = 0) -> Iterator[None]:
        """Let ``call`` fail in the body with ``errno``, each time but the first ``after``."""
        self._library.jdr_refuse([*CALLS].index(call), errno, after)
        self._library.jdr_watch(1)
        try:
            yield
        finally:
            self._library.jdr_watch(0)
            self._library.jdr_refuse(-1, 0, 0)
