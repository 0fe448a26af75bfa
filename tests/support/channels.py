"""Connections to the servers of tests."""

import grpc


def open_channel(address: str) -> grpc.Channel:
    """A channel with a connection of its own.

    Ports are chosen by the system and come again: a connection shared by address could be one to a server of an
    earlier test, still waiting to try again.
    """
    return grpc.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
