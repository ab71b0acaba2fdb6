"""The address of a cluster's head, before anything of Ray is loaded."""

import re
import socket

from autoquant.errors import ClusterError

__all__ = ["check_address", "parse_address"]

_REACH_S = 5.0
# a host as it may stand on a command line: a name, an IPv4 or a bracketed IPv6 address
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\]")
_PORT = re.compile(r"[0-9]{1,5}")


def parse_address(address: str) -> tuple[str, int] | None:
    """Host and port of the head; None for `auto`, the cluster of this machine.

    Raises:
        ClusterError: no address.
    """
    if address == "auto":
        return None
    host, _, port = address.rpartition(":")
    if not (_HOST.fullmatch(host) and _PORT.fullmatch(port) and 0 < int(port) < 65536):
        raise ClusterError(
            f"--ray '{address}': write HOST:PORT of the cluster's head, as `ray start` prints it, "
            "or auto"
        )
    return host.strip("[]"), int(port)


def check_address(address: str) -> None:
    """Say at once that nobody listens there: Ray itself tries for a minute before it does.

    Raises:
        ClusterError: no address, or nobody answers.
    """
    place = parse_address(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=_REACH_S).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClusterError(
            f"--ray {address}: nobody answers there ({reason}); begin a cluster "
            "with `ray start --head`"
        ) from None
