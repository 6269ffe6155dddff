"""Robots by address."""

from __future__ import annotations

from sim2real.deploy.robots.base import Robot
from sim2real.deploy.robots.udp import UdpRobot
from sim2real.types import InputError

TRANSPORTS = {"udp": UdpRobot}


def connect(address: str, timeout: float = 2.0) -> Robot:
    """The robot at `udp://HOST:PORT`, `HOST:PORT` or `:PORT` (this machine).

    Raises:
        InputError: an address that is none, or no robot that answers within `timeout` [s].
    """
    scheme, _, rest = address.rpartition("://")
    host, _, port = rest.rpartition(":")
    if (scheme or "udp") not in TRANSPORTS:
        raise InputError(
            f"no transport '{scheme}'; write {', '.join(f'{t}://HOST:PORT' for t in TRANSPORTS)}"
        )
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(
            f"'{address}' is not the address of a robot; give HOST:PORT with a port from 1 to "
            "65535, such as 127.0.0.1:47800"
        )
    return TRANSPORTS[scheme or "udp"](host or "127.0.0.1", int(port), timeout)
