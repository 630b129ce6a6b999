"""`minicloud-dhcpbridge`: dnsmasq runs it for every change of a lease.

Standard library only, because it is started once for each event: it sends one datagram to the
network daemon and ends.  It neither waits nor fails when the daemon is away: the bookings are the
truth, a lease is only news.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys

SOCKET = "MINICLOUD_DHCP_EVENTS"  # in the environment: path of the daemon's datagram socket


def main() -> int:
    """`minicloud-dhcpbridge add|old|del MAC ADDRESS [NAME]`, as dnsmasq's man page has it."""
    event = "\0".join(sys.argv[1:5]).encode(errors="replace")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(event[:1024], os.environ.get(SOCKET, ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
