"""The server that an attack is tried on, and how the figures are told."""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

Figures = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """`pid` is the server's process, where its memory is to be measured."""

    host: str
    port: int
    key: str | None = None
    pid: int | None = None

    def client(self) -> httpx.Client:
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=f"http://{self.host}:{self.port}", headers=headers, timeout=120)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=30)

    def memory(self) -> int:
        """Resident bytes of the server; 0 if its process is not known."""
        return 0 if self.pid is None else int(psutil.Process(self.pid).memory_info().rss)


def run(attack: Callable[[Target], Figures]) -> None:
    """Try an attack from the command line, and print its figures."""
    parser = argparse.ArgumentParser(description=attack.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--key")
    parser.add_argument("--pid", type=int)
    given = parser.parse_args()
    print(json.dumps({attack.__name__: attack(Target(**vars(given)))}))
