"""The address of a cluster's head, before anything of Ray is loaded."""

import socket

from autoquant.errors import ClusterError

__all__ = ["check_address"]

_REACH_S = 5.0


def check_address(address: str) -> None:
    """Say at once that nobody listens there: Ray itself tries for a minute before it does.

    Raises:
        ClusterError: no address, or nobody answers.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        raise ClusterError(
            f"--ray '{address}': write HOST:PORT of the cluster's head, as `ray start` prints it, "
            "or auto"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except OSError as error:
        raise ClusterError(
            f"--ray {address}: nobody answers there ({error.strerror or error}); begin a cluster "
            "with `ray start --head`"
        ) from None
