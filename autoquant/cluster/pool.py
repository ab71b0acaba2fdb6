"""`Pool`: the workers of a search, from hiring to loss."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from autoquant.backends.machine import find_kernel
from autoquant.cluster.connection import Connection, Demand, Lost, Raised
from autoquant.cluster.crew import Crew
from autoquant.cluster.slot import Role, Slot
from autoquant.cluster.worker import Greeting, Source, find_versions
from autoquant.core.fingerprint import Fingerprint
from autoquant.errors import ClusterError, InputError

__all__ = ["PROBE", "Pool"]

# The resource of nodes that stand for the target device; with `:NAME`, for the one of that name.
PROBE = "latency_probe"

_SCAN_S = 5.0
_MOST_FALSE_STARTS = 5

Answer = tuple[Slot, Any, Any]  # who, what or which error, and its promise


class Pool:
    """Hires workers and probes, and replaces those that die.

    Args:
        connection: the cluster.
        source: makes the evaluator, once in each worker.
        crew: how many workers, and what they may take.
        is_timed: files are timed, by probes.
    """

    def __init__(
        self, connection: Connection, source: Source, crew: Crew, *, is_timed: bool
    ) -> None:
        self.connection = connection
        self.crew = crew
        self.is_timed = is_timed
        self.early_notes: list[str] = []  # from before somebody listens
        self.on_note: Callable[[str], None] = self.early_notes.append
        self.slots: list[Slot] = []
        self._source = connection.share(source)
        self._promises: dict[Any, Slot] = {}
        self.targets: tuple[str | None, ...] = crew.targets or (None,)
        self.fingerprints: dict[str | None, Fingerprint] = {}  # of what was last timed on
        self._unmet = set(crew.targets) if is_timed else set()  # never had a node
        self._began = time.monotonic()
        self._has_probe_nodes = bool(connection.nodes_with(PROBE))
        self._kernel = find_kernel()
        self._told: set[str] = set()
        self._scanned = time.monotonic()
        self._is_manned = False
        if connection.dashboard is not None:
            self._tell(f"Ray's dashboard is at http://{connection.dashboard}")
        for slot in self._plan():
            self._add(slot)

    def of_role(self, role: Role) -> list[Slot]:
        """Those that are hired for it."""
        return [slot for slot in self.slots if slot.role == role]

    def idle(self, role: Role) -> list[Slot]:
        """Those of them that wait for work."""
        return [slot for slot in self.of_role(role) if slot.state == "idle"]

    def probes(self, target: str | None) -> list[Slot]:
        """Those that time for a target."""
        return [slot for slot in self.of_role("probe") if slot.target == target]

    def near(self, probe: Slot) -> list[int]:
        """Processes of this search on a probe's machine, by id."""
        assert probe.greeting is not None
        kernel = probe.greeting.kernel
        others = [slot.greeting for slot in self.slots if slot is not probe]
        near = [item.pid for item in others if item is not None and item.kernel == kernel]
        return [*near, os.getpid()] if kernel == self._kernel else near

    def expect(self, slot: Slot, promise: Any) -> None:
        """A worker was asked for something: hear of it when it is there."""
        self._promises[promise] = slot

    def listen(self, timeout_s: float) -> Iterator[Answer]:
        """What workers answer, or how they fail, that have work; others are made ready.

        Raises:
            ClusterError: no worker finds a place, or they do not stay alive.
            InputError: the workers cannot load the task.
        """
        self._scan()
        if not self._promises:
            time.sleep(timeout_s)
            return
        for promise in self.connection.listen(list(self._promises), timeout_s):
            slot = self._promises.pop(promise, None)
            if slot is None:  # it was dismissed meanwhile
                continue
            answer = self._fetch(promise)
            if slot.flight is not None:
                yield slot, answer, promise
            else:
                self._make_ready(slot, answer)

    def replace(self, slot: Slot) -> None:
        """End a worker and hire another in its place; a probe only while its node lives."""
        self._promises = {p: owner for p, owner in self._promises.items() if owner is not slot}
        self.connection.dismiss(slot.actor)
        node = slot.demand.node
        if node is None or self.connection.lives(node):
            self._hire(slot)
            return
        self.slots.remove(slot)
        if not self.probes(slot.target):
            which = "" if slot.target is None else f" for target '{slot.target}'"
            self._tell(
                f"the last probe node{which} is gone: files wait to be timed until one is back"
            )

    # Hiring

    def _plan(self) -> list[Slot]:
        crew = self.crew
        plain = Demand(cpus=crew.cpus)
        slots = [Slot(f"worker {n + 1}", "worker", plain) for n in range(crew.workers or 1)]
        if crew.gpus_per_qat_trial and self.connection.gpus < crew.gpus_per_qat_trial:
            self._tell("no node has a GPU: trials that train do so on processors")
        elif crew.gpus_per_qat_trial:
            slots.append(Slot("trainer", "trainer", Demand(crew.cpus, crew.gpus_per_qat_trial)))
        return slots + self._plan_probes()

    def _plan_probes(self) -> list[Slot]:
        """Of nodes that have none yet."""
        if not self.is_timed:
            return []
        known = {(slot.target, slot.demand.node) for slot in self.of_role("probe")}
        return [
            Slot(
                "probe" if target is None else f"probe {target}",
                "probe",
                Demand(cpus=0, node=node),
                target,
            )
            for target in self.targets
            for node in self._find_probe_nodes(target)
            if (target, node) not in known
        ]

    def _find_probe_nodes(self, target: str | None) -> list[str]:
        if target is not None:
            found = self.connection.nodes_with(f"{PROBE}:{target}")
            self._unmet -= {target} if found else set()
            return found
        here = [] if self._has_probe_nodes else [self.connection.here]
        return self.connection.nodes_with(PROBE) or here

    def _add(self, slot: Slot) -> None:
        self.slots.append(slot)
        self._hire(slot)

    def _hire(self, slot: Slot) -> None:
        slot.greeting = None
        slot.turn("placing")
        slot.actor = self.connection.hire(slot.demand)
        self.expect(slot, slot.actor.greet.remote())

    # Making ready

    def _fetch(self, promise: Any) -> Any:
        try:
            return self.connection.fetch(promise)
        except (Lost, Raised) as error:
            return error

    def _make_ready(self, slot: Slot, answer: Any) -> None:
        match answer:
            case Lost():
                self._count_false_start(slot, str(answer))
            case Raised():
                self._complain(slot, answer.cause)
            case Greeting():
                self._welcome(slot, answer)
            case _:
                self._enlist(slot, answer)

    def _count_false_start(self, slot: Slot, reason: str) -> None:
        slot.false_starts += 1
        if slot.false_starts > _MOST_FALSE_STARTS:
            raise ClusterError(f"{slot.name} does not stay alive: {reason}")
        self.replace(slot)

    def _complain(self, slot: Slot, cause: BaseException) -> None:
        if isinstance(cause, InputError):
            raise cause
        raise ClusterError(f"{slot.name} cannot begin: {type(cause).__name__}: {cause}")

    def _welcome(self, slot: Slot, greeting: Greeting) -> None:
        ours = find_versions()
        for name in {**ours, **greeting.versions}:
            if ours.get(name) != greeting.versions.get(name):
                raise ClusterError(
                    f"node {greeting.node} has {name} {greeting.versions.get(name)}, this process "
                    f"has {ours.get(name)}: install the same on every node"
                )
        slot.greeting = greeting
        self._is_manned |= slot.role != "probe"
        slot.turn("loading")
        self.expect(slot, slot.actor.load.remote(self._source, is_probe=slot.role == "probe"))

    def _enlist(self, slot: Slot, fingerprint: Fingerprint) -> None:
        slot.false_starts = 0
        if slot.role == "probe":
            self.fingerprints[slot.target] = fingerprint
        slot.turn("idle")

    # Looking around

    def _scan(self) -> None:
        """Now and then: have probe nodes come, and do workers find no place?"""
        now = time.monotonic()
        if now - self._scanned < min(_SCAN_S, self.crew.place_s):
            return
        self._scanned = now
        for slot in self._plan_probes():
            self._add(slot)
        self._check_targets(now)
        self._check_places(now)

    def _check_targets(self, now: float) -> None:
        if self._unmet and now - self._began >= self.crew.place_s:
            name = sorted(self._unmet)[0]
            resource = f'{{"{PROBE}:{name}": 1}}'
            raise ClusterError(
                f"no node stands for target '{name}' within {self.crew.place_s:g} s: begin one "
                f"there with ray start --address HEAD --resources='{resource}'"
            )

    def _check_places(self, now: float) -> None:
        waiting = [s for s in self.slots if s.role != "probe" and s.greeting is None]
        if not waiting or now - min(slot.since for slot in waiting) < self.crew.place_s:
            return
        there = self.connection.describe_resources()
        asked = f"{self.crew.describe()}; the cluster has {there}"
        if not self._is_manned:
            limit = f"{self.crew.place_s:g} s"
            raise ClusterError(f"no worker found a place within {limit}: asked for {asked}")
        self._tell(f"{len(waiting)} workers find no place: asked for {asked}")

    def _tell(self, text: str) -> None:
        """A note, once."""
        if text not in self._told:
            self._told.add(text)
            self.on_note(text)
