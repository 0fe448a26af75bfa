"""Where the servers of the local cloud listen: hosts that stay on this machine, and how an address is written."""

import contextlib
import ipaddress
import socket


class HostNotLoopbackError(ValueError):
    """The host would let other machines in. The local cloud checks no credentials, so that must be asked for."""

    def __init__(self, host: str) -> None:
        """Name the host."""
        super().__init__(f"{host} is not a loopback address. The local cloud lets everybody do everything.")


class PortUnavailableError(OSError):
    """A server cannot listen on its port, most often because another process does."""

    def __init__(self, server: str, host: str, port: int) -> None:
        """Name the server and its address."""
        super().__init__(f"{server} cannot listen on {format_address(host, port)}: the port is in use or not allowed.")


def check_host(host: str) -> None:
    """Accept a loopback address or `localhost`.

    Raises:
        HostNotLoopbackError: Any other host, names included: what a name resolves to can change.
    """
    if host == "localhost":
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    raise HostNotLoopbackError(host)


def address_family(host: str) -> socket.AddressFamily:
    """Return the family in which a server listens on `host`."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def format_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_port_is_free(server: str, host: str, port: int) -> None:
    """Try to bind the port, and give it back.

    For servers that report a taken port poorly. Port 0 is always free.

    Raises:
        PortUnavailableError: The port cannot be bound now.
    """
    if port == 0:
        return
    with socket.socket(address_family(host), socket.SOCK_STREAM) as probe:
        # As the servers do: without it, connections of an earlier run that are still closing look like a server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise PortUnavailableError(server, host, port) from error
