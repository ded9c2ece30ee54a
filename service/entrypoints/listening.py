"""The address that a server listens on, taken before anything else is begun."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import InvalidSetting


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that has the address and does not listen yet, so that whoever asks too early is refused and not kept waiting.

    Raises:
        InvalidSetting: the address cannot be had, and what to do about it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # `::` would open every IPv4 address, too
        try:
            taken.bind((host, port))
        except OSError as error:
            raise InvalidSetting(_reason(error, host, port)) from error
        yield taken


def _reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use, perhaps by another `lethe serve`: stop that one, or choose another port with "
            "--port or LETHE_PORT"
        )
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}: choose one above 1023 with --port or LETHE_PORT"
    return (
        f"cannot listen on {host}: it is no address of this machine; --host or LETHE_HOST names one, such as 127.0.0.1"
    )
