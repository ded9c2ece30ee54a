"""An address that cannot be had is told in words, before anything of the installation is opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.entrypoints.commands.main import app
from service.entrypoints.listening import bound
from service.errors import InvalidSetting


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_whoever_comes_too_early_is_refused_and_the_address_is_free_again_afterwards(host: str) -> None:
    try:
        with bound(host, 0) as address:
            port = address.getsockname()[1]
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, port), timeout=5)
    except InvalidSetting:
        pytest.skip(f"this machine has no {host}")
    with bound(host, port):
        pass


def test_an_ipv6_address_opens_no_ipv4_one() -> None:
    try:
        with bound("::", 0) as address:
            address.listen()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", address.getsockname()[1]), timeout=5)
    except InvalidSetting:
        pytest.skip("this machine has no IPv6")


def test_a_port_in_use_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = CliRunner().invoke(app, ["serve", "--port", str(port), "--home", str(tmp_path / "home")])
    assert isinstance(ran.exception, InvalidSetting)
    assert f"port {port} of 127.0.0.1 is in use" in str(ran.exception)
    assert "--port or LETHE_PORT" in str(ran.exception)
    assert not (tmp_path / "home").exists()


def test_an_address_of_another_machine_is_refused() -> None:
    elsewhere = "192.0.2.1"  # of nobody: RFC 5737
    with pytest.raises(InvalidSetting, match="it is no address of this machine"), bound(elsewhere, 0):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on any port")
def test_a_port_for_root_alone_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="above 1023"), bound("127.0.0.1", 1):
        pass
