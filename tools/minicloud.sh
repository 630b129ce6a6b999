#!/bin/bash
# The one command of a minicloud on this machine: `tools/minicloud.sh help` names what it can do.
# All it does itself is to find a Python; the rest is the package tools/launcher.
set -eu

top=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
python=/usr/bin/python3 # Debian's own: python3-libvirt is built for this one and no other

if [ ! -x $python ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "error: $python is missing; run as root: apt-get install python3" >&2
        exit 1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q \
        --no-install-recommends python3 >&2
    echo "installed Debian package python3"
fi

# -B: a run leaves nothing in the checkout
PYTHONPATH="$top/tools:$top" exec $python -s -B -m launcher "$@"
