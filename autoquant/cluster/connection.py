"""`Connection`: the door to Ray. What goes wrong with a cluster is said here in our words."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pickle import PicklingError
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autoquant.cluster.address import check_address
from autoquant.cluster.worker import Worker
from autoquant.errors import ClusterError

__all__ = ["Connection", "Demand", "Lost", "Raised", "connect"]

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class Lost(Exception):
    """A worker, its node or its answer is gone; says why."""


class Raised(Exception):
    """The worker's own code raised: the cause."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True)
class Demand:
    """What a worker asks of its node.

    Attributes:
        cpus: processors that are its own.
        gpus: likewise, or a share of one.
        node: id of the node where it has to be; None leaves that to Ray.
    """

    cpus: float = 1
    gpus: float = 0
    node: str | None = None


class Connection:
    """A cluster that this process drives; entered, it is left at the end whatever happens.

    Workers die with the process that hired them.

    Args:
        is_own: the cluster is this process's own, and ends with it.
        dashboard: address of Ray's dashboard, where there is one.
    """

    def __init__(self, *, is_own: bool, dashboard: str | None = None) -> None:
        self.is_own = is_own
        self.dashboard = dashboard
        self.here: str = ray.get_runtime_context().get_node_id()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trail: TracebackType | None,
    ) -> None:
        ray.shutdown()

    def hire(self, demand: Demand) -> Any:
        """A worker; it may take a while to find a place."""
        options: dict[str, Any] = {"num_cpus": demand.cpus, "num_gpus": demand.gpus}
        if demand.node is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(demand.node, soft=False)
        cores = max(1, int(demand.cpus))
        return ray.remote(_RemoteWorker).options(**options).remote(cores)

    def dismiss(self, actor: Any) -> None:
        """End a worker, whatever it is doing."""
        ray.kill(actor, no_restart=True)

    def share(self, value: Any) -> Any:
        """Put a value into the object store, from which each node fetches it once.

        Raises:
            ClusterError: it cannot be sent.
        """
        try:
            return ray.put(value)
        except (TypeError, PicklingError) as error:
            raise ClusterError(
                f"the task cannot be sent to workers: {_first_sentence(error)}; register it in a "
                "file and search with --tasks-from FILE.py: each worker makes it there"
            ) from None

    def listen(self, promises: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those that are kept, or broken; waits for the first of them."""
        ready, rest = ray.wait(list(promises), num_returns=1, timeout=timeout_s)
        if ready and rest:
            ready += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return list(ready)

    def fetch(self, promise: Any) -> Any:
        """What was promised.

        Raises:
            Raised: the worker's own code failed.
            Lost: the worker, its node or the answer is gone.
        """
        try:
            return ray.get(promise)
        except RayTaskError as error:
            raise Raised(error.cause or error) from None
        except RayError as error:
            raise Lost(_first_sentence(error)) from None

    @property
    def cpus(self) -> int:
        """Processors of the whole cluster."""
        return int(ray.cluster_resources().get("CPU", 0))

    @property
    def gpus(self) -> float:
        """Likewise, GPUs."""
        return float(ray.cluster_resources().get("GPU", 0))

    def nodes_with(self, resource: str) -> list[str]:
        """Ids of the living nodes that have it."""
        return [
            node["NodeID"]
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get(resource, 0) > 0
        ]

    def lives(self, node: str) -> bool:
        """Whether a node is still there."""
        return any(item["NodeID"] == node and item["Alive"] for item in ray.nodes())

    def describe_resources(self) -> str:
        """What the cluster has, and what of it is free, in words."""
        total, free = ray.cluster_resources(), ray.available_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        parts = [
            f"{free.get(name, 0):g} of {total.get(name, 0):g} {name} free"
            for name in ("CPU", "GPU")
        ]
        return f"{nodes} node{'s' * (nodes != 1)} with {', '.join(parts)}"


class _RemoteWorker(Worker):
    """The same, as Ray starts it on a node."""

    def __init__(self, cores: int) -> None:
        super().__init__(_name_node(ray.get_runtime_context().get_node_id()), cores)


def _name_node(node: str) -> str:
    """Its name and the beginning of its id, since several may run on one machine."""
    names = {item["NodeID"]: item["NodeName"] for item in ray.nodes()}
    return f"{names.get(node, 'node')}:{node[:6]}"


def connect(address: str | None, cpus: float) -> Connection:
    """Begin a cluster on this machine, or join one.

    Args:
        address: `HOST:PORT` of a cluster's head, or `auto`; None begins one.
        cpus: that a cluster of our own says it has.

    Raises:
        ClusterError: nobody answers there, or Ray or Python are of other versions.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        raise ClusterError("this process is connected to a cluster already: ray.shutdown() first")
    if address is None:
        # Ray's workers give way to everything else on a machine, which no timing stands
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(address="local", num_cpus=int(cpus), include_dashboard=False, **_QUIET)
        return Connection(is_own=True)
    if address != "auto":
        check_address(address)
    context = _translate(address, lambda: ray.init(address=address, **_QUIET))
    return Connection(is_own=False, dashboard=context.dashboard_url or None)


def _translate(address: str, join: Callable[[], Any]) -> Any:
    try:
        return join()
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        with suppress(Exception):  # where it is refused, Ray leaves a part of itself connected
            ray.shutdown()
        reason = _first_sentence(error)
        if "ersion mismatch" in str(error):
            text = " ".join(str(error).split())
            raise ClusterError(f"--ray {address}: {text}; install the same ones here") from None
        raise ClusterError(
            f"--ray {address}: Ray does not let us in: {reason}; a cluster that asks for a token "
            "wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
        ) from None


def _first_sentence(error: BaseException) -> str:
    """Ray explains itself over many lines; the first one says what happened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[0].split())
