"""The system calls of the product's Python, found by their names, and which of them are explained where they fail.

A call is explained if an ``OSError`` of it is caught, or is told with path and attempt by one of the wrappers, where
the call stands or at every place of the module that calls the private function it stands in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jetdr_core

PACKAGE = Path(jetdr_core.__file__).parent

WRAPPERS = frozenset({"trying", "making", "target_call", "tried", "_to_stdout", "writing", "reading"})
MODULES = frozenset({"os", "fcntl", "shutil", "tempfile", "subprocess", "mmap", "socket", "linux"})
PURE = frozenset(
    {
        "os.fspath", "os.fsencode", "os.fsdecode", "os.getpid", "os.geteuid", "os.strerror", "os.major", "os.minor",
        "os.makedev", "os.cpu_count", "os.close", "os.close_range", "os._exit", "os.register_at_fork", "os.getuid",
        "os.sched_getaffinity", "os.process_cpu_count", "shutil.which",
        "tempfile.gettempdir", "mmap.mmap", "socket.gethostname", "os.urandom", "os.get_terminal_size",
        "os.access", "os.sysconf", "subprocess.TimeoutExpired",
    }
)  # fmt: skip
"""What does not fail for a user's reasons. ``mmap`` is anonymous memory here, and a close is not repeated."""

METHODS = frozenset(
    {
        "read_text", "read_bytes", "write_text", "write_bytes", "stat", "lstat", "mkdir", "unlink", "iterdir", "rmdir",
        "touch", "chmod", "readlink", "symlink_to", "samefile", "rename", "rglob", "is_mount",
        "exists", "is_file", "is_dir", "is_socket", "is_block_device", "is_symlink", "glob",
    }
)  # fmt: skip
"""Methods of paths that raise ``OSError``, and that nothing else here has."""


@dataclass(frozen=True, slots=True)
class SystemCall:
    """``function`` is the function or method of ``module`` it stands in."""

    module: str
    line: int
    function: str
    text: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.function}: {self.text}"


@dataclass(frozen=True, slots=True)
class _Site:
    """A call and the function it stands in. Whether it is explained there, and whether the system is called."""

    function: str
    call: ast.Call
    is_explained: bool
    is_system: bool


def unexplained(source: str, module: str) -> list[SystemCall]:
    """Return the calls whose ``OSError`` leaves a public function, or the module's code, as the system raised it."""
    sites = list(_sites(ast.parse(source), (), ""))
    callers: dict[str, set[str]] = {}
    for site in sites:
        if not site.is_explained:
            callers.setdefault(_called(site.call), set()).add(site.function)
    return [
        SystemCall(module, site.call.lineno, site.function, ast.unparse(site.call)[:80])
        for site in sites
        if site.is_system and not site.is_explained and _leaves(site.function, callers, frozenset())
    ]


def _leaves(function: str, callers: dict[str, set[str]], seen: frozenset[str]) -> bool:
    """Whether an error of the function reaches others than the private functions of its module, unexplained."""
    name = function.rpartition(".")[2]
    if not name.startswith("_") or name.startswith("__"):
        return True
    if function in seen:
        return False
    return any(_leaves(caller, callers, seen | {function}) for caller in callers.get(name, ()))


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _sites(node: ast.AST, above: tuple[tuple[ast.AST, ast.AST], ...], name: str) -> Iterator[_Site]:
    """Every call below ``node``, which stands in the function ``name``."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        name = f"{name}.{node.name}" if name else node.name
    if isinstance(node, ast.Call):
        yield _Site(name, node, _is_explained(above), _is_system(node))
    for child in ast.iter_child_nodes(node):
        yield from _sites(child, ((node, child), *above), name)


def _is_system(call: ast.Call) -> bool:
    match call.func:
        case ast.Name(id="open"):
            return True
        case ast.Attribute(value=ast.Name(id=module), attr=name) if module in MODULES:
            return f"{module}.{name}" not in PURE
        case ast.Attribute(value=value, attr=name):
            return name in METHODS and ast.unparse(value) != "os.path"
    return False


def _is_explained(above: tuple[tuple[ast.AST, ast.AST], ...]) -> bool:
    for node, child in above:
        match node:
            case ast.Try(body=body, handlers=handlers) if child in body:
                if any(handler.type is None or _catches(handler.type) for handler in handlers):
                    return True
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                if any(_explains(item.context_expr) for item in items if item is not child):
                    return True
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                return False
    return False


def _catches(kind: ast.expr) -> bool:
    names = {ast.unparse(one) for one in (kind.elts if isinstance(kind, ast.Tuple) else [kind])}
    return bool(names & {"OSError", "Exception", "BaseException"})


def _explains(context: ast.expr) -> bool:
    if not isinstance(context, ast.Call):
        return False
    if _called(context) == "suppress":
        return any(_catches(argument) for argument in context.args)
    return _called(context) in WRAPPERS
