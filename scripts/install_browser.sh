#!/bin/sh
# What the tests that open pages in a browser need, on a machine that may be changed (.ci/run calls this, `make test` does not):
# a browser, and axe-core, which looks for what keeps people from using a page by keyboard or by ear.
# Nothing happens where they are already, or where the packages cannot be installed: those tests then skip.
set -u
cd "$(dirname "$0")/.."

AXE=axe-core@4.14.1

browser() {
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        export DEBIAN_FRONTEND=noninteractive
        install="apt-get install -y -q --no-install-recommends chromium"
        $install >/dev/null 2>&1 || { apt-get update -q >/dev/null 2>&1 && $install >/dev/null 2>&1; }
    fi
    command -v chromium >/dev/null 2>&1
}

axe() {
    [ -f build/axe/package/axe.min.js ] && return 0
    command -v npm >/dev/null 2>&1 || return 1
    mkdir -p build/axe && (cd build/axe && npm pack --silent "$AXE" >/dev/null 2>&1 && tar -xzf axe-core-*.tgz)
}

browser || echo "no browser here: the tests that need one will skip" >&2
axe || echo "no axe-core here: the test that needs it will skip" >&2
exit 0
