"""One bounded POST to an address that was looked at: the one place from which a URL of an operator is asked.

A name is resolved once, each address is looked at, and it is the address itself that is connected to. So nobody who answers for
the name can have it mean a machine behind the firewall a moment later (DNS rebinding). Redirects are not followed.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from service.errors import NotDelivered

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_PORTS = {"https": 443, "http": 80}

Resolve = Callable[[str, int], Iterable[str]]
"""Host and port -> numeric addresses. Raises OSError."""


def resolve(host: str, port: int) -> list[str]:
    """By the system's resolver."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the internet's: not private, loopback, link-local, shared, multicast or reserved."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv4Address):
        return _is_of_the_internet(found)
    if found in _NAT64:
        return _is_of_the_internet(IPv4Address(int(found) & 0xFFFFFFFF))
    inner = found.ipv4_mapped or found.sixtofour
    return _is_of_the_internet(found) and not found.is_site_local and (inner is None or _is_of_the_internet(inner))


def _is_of_the_internet(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_reserved)


class Receiver:
    """Whoever is behind a URL. `seconds` bound a whole delivery, from the connection to the head of the answer."""

    def __init__(self, url: str, allow_private: bool, seconds: float, resolve: Resolve = resolve) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._allow_private = allow_private
        self._seconds = seconds
        self._resolve = resolve

    def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Deliver. Raises NotDelivered, unless the answer is 2xx; its text names no address."""
        until = time.monotonic() + self._seconds
        try:
            with self._connected(until) as connection:
                connection.request("POST", self._target, body, dict(headers))
                status = connection.getresponse().status  # nobody reads what follows
        except (OSError, http.client.HTTPException) as error:
            raise NotDelivered(f"the receiver could not be asked ({type(error).__name__})") from None
        if time.monotonic() >= until:
            raise NotDelivered(f"the receiver did not answer within {self._seconds:g} s")
        if not 200 <= status < 300:
            told = "; redirects are not followed" if 300 <= status < 400 else ""
            raise NotDelivered(f"the receiver answered {status}{told}")

    @contextmanager
    def _connected(self, until: float) -> Iterator[http.client.HTTPConnection]:
        """A connection that ends at this time of the monotonic clock, whatever the other side does."""
        with self._socket(until) as opened, opened.dup() as same:
            # Timeouts count from the last byte: who sends one a second would be listened to for ever.
            watchdog = threading.Timer(max(0.0, until - time.monotonic()), _end, [same])
            watchdog.daemon = True
            watchdog.start()
            connection = http.client.HTTPConnection(self._host, self._port)
            try:
                connection.sock = self._secured(opened)
                yield connection
            finally:
                watchdog.cancel()
                watchdog.join()  # it must not meet another connection's number
                connection.close()

    def _secured(self, opened: socket.socket) -> socket.socket:
        if not self._secure:
            return opened
        return ssl.create_default_context().wrap_socket(opened, server_hostname=self._host)

    def _socket(self, until: float) -> socket.socket:
        failure: OSError | None = None
        allowed = [each for each in self._resolve(self._host, self._port) if self._allow_private or is_public(each)]
        for address in allowed:
            try:
                left = max(0.001, until - time.monotonic())
                return socket.create_connection((address, self._port), timeout=left)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        raise NotDelivered(
            "the receiver's name stands for no public address, and LETHE_WEBHOOK_ALLOW_PRIVATE is not set; nothing was sent"
        )


def _end(connected: socket.socket) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended already
