#!/bin/sh
# A browser for the tests that open pages in one, on a machine that may be changed (.ci/run calls this, `make test` does not).
# Nothing happens where there is one already, or where Debian's package cannot be installed: those tests then skip.
set -u
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    install="apt-get install -y -q --no-install-recommends chromium"
    $install >/dev/null 2>&1 || { apt-get update -q >/dev/null 2>&1 && $install >/dev/null 2>&1; }
fi
command -v chromium >/dev/null 2>&1 || echo "no browser here: the tests that need one will skip" >&2
exit 0
