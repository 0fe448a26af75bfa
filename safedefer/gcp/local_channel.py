"""The connection to a local cloud, which is plain text on a loopback address."""

from typing import Final

import grpc

_OPTIONS: Final = (
    # Its own connection: the shared one to that address may belong to a server that has been stopped, and would still
    # be waiting to try again.
    ("grpc.use_local_subchannel_pool", 1),
    # A local cloud that has been restarted is found within a second; the default waits for up to two minutes.
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A proxy that the environment names, for the way to the internet, does not know this machine's addresses.
    ("grpc.enable_http_proxy", 0),
)


def open_local_channel(host: str) -> grpc.Channel:
    """Open a channel to `host`, a name and a port."""
    return grpc.insecure_channel(host, options=_OPTIONS)
