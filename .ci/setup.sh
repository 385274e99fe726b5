# What ./demo and ./check share: the Debian packages they miss, the virtual environment, the engine in it.
# Sourced by both; expects "set -euo pipefail" and ROOT.

PYTHON="${PYTHON:-python3}"
VENV="$ROOT/.venv"
PATH="$PATH:/usr/sbin:/sbin" # mkfs.ext4 and e2fsck, for those who are not root
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1

say() { printf '%s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# quietly WHAT COMMAND...: says WHAT, shows the command's output only when it fails.
quietly() {
    local what="$1" log status=0
    shift
    say "   $what"
    log="$(mktemp)"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        cat "$log" >&2
        rm -f "$log"
        fail "could not do this: $what (exit status $status, output above)"
    fi
    rm -f "$log"
}

have() { command -v "$1" >/dev/null 2>&1; }

python_can() { have "$PYTHON" && "$PYTHON" -c "$1" >/dev/null 2>&1; }

# Names of the Debian packages that a plain Debian lacks for building and running the engine and its demo.
packages_missing_for_engine() {
    have "$PYTHON" || echo python3
    python_can 'import ensurepip, venv' || echo python3-venv
    python_can 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' || echo python3-dev
    have gcc || echo gcc libc6-dev
    [ -e /usr/include/xxhash.h ] || echo libxxhash-dev
    [ -e /usr/include/iscsi/iscsi.h ] || echo libiscsi-dev
    [ -e /usr/include/nbdkit-plugin.h ] || echo nbdkit-plugin-dev
    have nbdkit || echo nbdkit
    have mkfs.ext4 && have e2fsck && have debugfs || echo e2fsprogs
    have qemu-img || echo qemu-utils
}

# install_packages NAME...: one apt-get call for all that is missing; nothing, and no root, when nothing is.
install_packages() {
    [ $# -gt 0 ] || return 0
    have apt-get || fail "these are missing and this is not Debian: $*"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || fail "these Debian packages are missing; as root: apt-get install $*"
        as_root=(sudo)
    fi
    quietly "reading Debian's package lists" "${as_root[@]}" apt-get update -q
    quietly "installing Debian packages: $*" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$@"
}

check_python() {
    python_can 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$PYTHON is older than Python 3.11; name another with PYTHON=/path/to/python3"
    python_can 'import ensurepip, venv' || fail "$PYTHON has no venv module; install it, or use PYTHON=/usr/bin/python3"
}

# The environment is made anew when its Python is gone or too old.
virtual_environment() {
    if ! "$VENV/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        rm -rf "$VENV"
        quietly "making $VENV" "$PYTHON" -m venv "$VENV"
        quietly "updating its pip" "$VENV/bin/python" -m pip install -q -U pip
    fi
}

# A build folder left by another version or with other flags would be taken over silently: it goes first.
install_engine() {
    rm -rf "$ROOT/build"
    quietly "building and installing jetdr_core (about a minute)" "$VENV/bin/python" -m pip install -q "$ROOT"
    rm -rf "$ROOT/build"
    touch "$VENV/installed"
}

engine_is_current() {
    [ -e "$VENV/installed" ] && [ -x "$VENV/bin/jetdr" ] && [ -z "$(
        find "$ROOT/jetdr_core" "$ROOT/native" "$ROOT/setup.py" "$ROOT/pyproject.toml" \
            -not -path '*/__pycache__*' -newer "$VENV/installed" -print -quit
    )" ]
}
