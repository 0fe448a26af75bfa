"""Hosts that stay on this machine, and how addresses are written."""

import socket

import pytest

from safedefer.emulator.addresses import (
    HostNotLoopbackError,
    PortUnavailableError,
    check_host,
    check_port_is_free,
    format_address,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_host_is_accepted(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com"])
def test_host_that_others_can_reach_is_refused(host: str) -> None:
    with pytest.raises(HostNotLoopbackError):
        check_host(host)


def test_ipv6_address_is_written_in_brackets() -> None:
    assert format_address("::1", 80) == "[::1]:80"
    assert format_address("127.0.0.1", 80) == "127.0.0.1:80"


def test_taken_port_is_told_from_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        with pytest.raises(PortUnavailableError, match=f"Something cannot listen on 127.0.0.1:{port}"):
            check_port_is_free("Something", "127.0.0.1", port)
    check_port_is_free("Something", "127.0.0.1", port)
    check_port_is_free("Something", "127.0.0.1", 0)
