# What ./demo and ./check share: missing Debian packages, the virtual environment, and the engine in it.
# Both source this file after "set -euo pipefail" and after setting ROOT.

PYTHON="${PYTHON:-python3}"
VENV="$ROOT/.venv"
PATH="$PATH:/usr/sbin:/sbin" # where mkfs.ext4 and e2fsck are, which only root has on the path
unset PYTHONDONTWRITEBYTECODE # or every process of a test would compile the tests
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1

say() { printf '%s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# quietly WHAT COMMAND...: prints WHAT, and the command's output only if the command fails.
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

# Prints the missing Debian packages among those that build and run the engine and its demo.
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

# install_packages NAME...: installs all packages in one call of apt-get. Without a name it does nothing, without root.
install_packages() {
    [ $# -gt 0 ] || return 0
    have apt-get || fail "this is not Debian, and these packages are missing: $*"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || fail "Debian packages are missing; as root: apt-get install $*"
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

# Makes the environment anew if its Python is gone or too old.
virtual_environment() {
    if ! "$VENV/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        rm -rf "$VENV"
        quietly "making $VENV" "$PYTHON" -m venv "$VENV"
        quietly "updating its pip" "$VENV/bin/python" -m pip install -q -U pip
    fi
}

# Removes the build folder first: setuptools would silently reuse what another version or other flags have left there.
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
