"""Sensitivities: each layer alone at each choice, every other at 8 bits, on the runtime.

Files are built and run as in a search, on a part of the search split. What was measured is kept,
and read again only for the same weights, data, versions and machine; a measurement that was
interrupted goes on where it was.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from autoquant.backends.machine import available_cores
from autoquant.core.activity import announce
from autoquant.core.artifact import Artifact
from autoquant.core.evidence import Evidence
from autoquant.core.metric import drop_interval, find_evidence, measure_accuracy
from autoquant.core.proof import NodeTime, match_layers
from autoquant.core.recipe import Recipe
from autoquant.core.sensitivity import ChoiceCost, Proxy, Sensitivity, SensitivityBase
from autoquant.core.space import FLOAT, SearchSpace
from autoquant.evaluate import Evaluator
from autoquant.files import replacing
from autoquant.search.event import describe_error
from autoquant.tasks.data import cache_folder

__all__ = ["default_choices", "keep_folder", "measure_sensitivity", "read_sensitivity"]

_VERSION = 1  # of what is measured and how
_SAMPLES = 1000
_MACS = 40e9  # that the samples of one file may take: 125 of an EfficientNet-Lite0
_BASE = "8"
_DIED = "the process ended while it was measured"
_DIED_TWICE = f"{_DIED}, twice"

Outputs = npt.NDArray[np.float32]
Choices = Mapping[str, Sequence[str]]


def keep_folder() -> Path:
    """Where measurements are kept for later studies."""
    return cache_folder() / "sensitivity"


def default_choices(layers: Sequence[str]) -> Choices:
    """Four bits and float, for every layer."""
    return {name: ("4", FLOAT) for name in layers}


def measure_sensitivity(
    evaluator: Evaluator,
    task: str,
    folder: Path,
    choices: Choices | None = None,
    *,
    reduce_range: bool = False,
    timeout_s: float = float("inf"),
    fresh: bool = False,
) -> tuple[Sensitivity, str | None]:
    """What each choice of each layer costs and buys; measured as far as it is not known.

    Args:
        evaluator: builds and runs the files.
        task: its name.
        folder: where it is kept.
        choices: by layer; `default_choices` if left out.
        reduce_range: 8-bit weights use 7 bits.
        timeout_s: begin no file after so many seconds; what is missing stays missing.
        fresh: measure anew what is known.

    Returns:
        What was measured, and why an older measurement was refused; None if none was.

    Raises:
        TrialError: the network at 8 bits cannot be built.
    """
    wanted = choices or default_choices([layer.name for layer in evaluator.layers])
    probe = _Probe(evaluator, task, reduce_range)
    path = _path(folder, task, evaluator, reduce_range)
    known, refusal = (None, None) if fresh else _read(path, probe.key)
    found = known or probe.measure_base()
    pairs = [(layer, choice) for layer, own in wanted.items() for choice in own if choice != _BASE]
    errors = {(cost.layer, cost.choice): cost.error for cost in found.costs}
    missing = [pair for pair in pairs if errors.get(pair, _DIED) == _DIED]
    end = time.monotonic() + timeout_s
    for index, (layer, choice) in enumerate(missing):
        if time.monotonic() > end:
            break
        announce(f"sensitivity: {layer} at {choice}, {index + 1} of {len(missing)}")
        # a runtime that crashes on a file must not end every search: it gets two chances
        error = _DIED_TWICE if (layer, choice) in errors else _DIED
        others = [cost for cost in found.costs if (cost.layer, cost.choice) != (layer, choice)]
        found = found.model_copy(update={"costs": tuple(others)})
        mark = ChoiceCost(layer=layer, choice=choice, error=error)
        _write(path, found.model_copy(update={"costs": (*others, mark)}))
        try:
            found = probe.add(found, layer, choice)
        except KeyboardInterrupt:  # that is no crash of the runtime
            _write(path, found)
            raise
        _write(path, found)
    return _in_order(found, list(wanted)), refusal


def read_sensitivity(
    evaluator: Evaluator, task: str, folder: Path, *, reduce_range: bool = False
) -> Sensitivity | None:
    """What is known without measuring anything; None if nothing is, or of something else.

    Args:
        evaluator: as for `measure_sensitivity`, and so are the others.
        task: its name.
        folder: where it is kept.
        reduce_range: 8-bit weights use 7 bits.
    """
    probe = _Probe(evaluator, task, reduce_range)
    return _read(_path(folder, task, evaluator, reduce_range), probe.key)[0]


def _path(folder: Path, task: str, evaluator: Evaluator, reduce_range: bool) -> Path:
    return folder / f"{task}-{evaluator.backend.name}{'-reduced' if reduce_range else ''}.json"


class _Probe:
    """Measures one task's files."""

    def __init__(self, evaluator: Evaluator, task: str, reduce_range: bool) -> None:
        self.evaluator = evaluator
        self.task = task
        self.reduce_range = reduce_range

    @cached_property
    def key(self) -> dict[str, Any]:
        """What the figures depend on."""
        fingerprint = self.evaluator.fingerprint
        provenance = dict(self.evaluator.builder.provenance(Recipe(method="fp32")))
        conditions = provenance.pop("conditions", {})
        key = {
            "version": _VERSION,
            **provenance,
            "backend": conditions.get("backend", self.evaluator.backend.name),
            "versions": dict(fingerprint["versions"]),
            "machine": fingerprint["machine"],
            "samples": self.samples,
            "threads": self.evaluator.options.threads,
            "batch": self.evaluator.options.batch,
        }
        loaded: dict[str, Any] = json.loads(json.dumps(key))  # as it is read back
        return loaded

    @cached_property
    def batches(self) -> list[Any]:
        """The first batches of the search split: a thousand samples, fewer of a large network."""
        search = self.evaluator.search
        macs = sum(layer.macs for layer in self.evaluator.operators)
        samples = min(_SAMPLES, int(_MACS // max(1, macs)))
        return search.batches[: max(1, samples // search.batch_size)]

    @property
    def samples(self) -> int:
        """How many there are in those."""
        search = self.evaluator.search
        return min(len(search), len(self.batches) * search.batch_size)

    @property
    def reference(self) -> Outputs:
        """What the float model answers."""
        return self.evaluator.float_outputs[: self.samples]

    @property
    def targets(self) -> npt.NDArray[Any]:
        """Of the samples."""
        return self.evaluator.search.targets[: self.samples]

    @cached_property
    def proxy(self) -> Proxy:
        """Divergence needs scores of classes."""
        is_named = isinstance(self.evaluator.metric, str)
        return "kl" if is_named and self.reference.ndim == 2 else "noise"

    def measure_base(self) -> Sensitivity:
        """Every layer at 8 bits."""
        announce("sensitivity: every layer at 8 bits")
        start = time.perf_counter()
        base = SensitivityBase(
            accuracy=self._judge(self._base_outputs),
            accuracy_drop=self._judge(self.reference) - self._judge(self._base_outputs),
            proxy=self._part(self._base_outputs),
            size_bytes=self._base_artifact.size_bytes,
            latency_ratio=self._time(self._base_nodes),
        )
        return Sensitivity(
            task=self.task,
            key=self.key,
            samples=self.samples,
            reduce_range=self.reduce_range,
            proxy=self.proxy,
            base=base,
            seconds=round(time.perf_counter() - start, 2),
        )

    def add(self, found: Sensitivity, layer: str, choice: str) -> Sensitivity:
        """One more choice of one layer."""
        start = time.perf_counter()
        try:
            cost = self._measure(layer, choice)
        except Exception as error:  # a backend may raise anything: this choice has no figures
            cost = ChoiceCost(layer=layer, choice=choice, error=describe_error(error))
        seconds = round(found.seconds + time.perf_counter() - start, 2)
        return found.model_copy(update={"costs": (*found.costs, cost), "seconds": seconds})

    def _measure(self, layer: str, choice: str) -> ChoiceCost:
        artifact = self._build({layer: choice})
        outputs = self._run(artifact)
        drop = self._judge(self._base_outputs) - self._judge(outputs)
        return ChoiceCost(
            layer=layer,
            choice=choice,
            extra_drop=drop,
            extra_drop_ci=drop_interval(self._base_evidence, self._evidence(outputs), drop),
            proxy=self._part(outputs) - self._part(self._base_outputs),
            bytes_saved=self._base_artifact.size_bytes - artifact.size_bytes,
            latency_change=self._compare(layer, self._profile(artifact)),
        )

    def _build(self, changes: Mapping[str, str]) -> Artifact:
        """Every layer at 8 bits but those."""
        names = [layer.name for layer in self.evaluator.layers]
        choices = {name: (changes.get(name, _BASE),) for name in names}
        space = SearchSpace(choices, {"reduce_range": (self.reduce_range,)})
        return self.evaluator.builder.build(space.decode({})).artifact

    def _run(self, artifact: Artifact) -> Outputs:
        session = self.evaluator.backend.load(artifact, available_cores())
        return self.evaluator.predict(session, self.batches)

    def _judge(self, outputs: Outputs) -> float:
        return measure_accuracy(self.evaluator.metric, outputs, self.targets, self.reference)

    def _evidence(self, outputs: Outputs) -> Evidence:
        return find_evidence(self.evaluator.metric, outputs, self.targets, self.reference)

    def _part(self, outputs: Outputs) -> float:
        """How far outputs are from the float model's."""
        return (_divergence if self.proxy == "kl" else _noise_share)(self.reference, outputs)

    def _profile(self, artifact: Artifact) -> list[NodeTime]:
        with self.evaluator.place.turn():
            return self.evaluator.profile(artifact)

    def _compare(self, layer: str, nodes: Sequence[NodeTime]) -> float:
        """Change of the layer's own time and that of what is no layer.

        What the clock says of the other layers is noise; of all, where the same kernels run.
        """
        if [(node.name, node.kernel) for node in nodes] == self._base_kernels:
            return 0.0
        names = [item.name for item in self.evaluator.operators]
        found = [
            [n for n in some if match_layers([n.name], names).get(n.name, layer) == layer]
            for some in (nodes, self._base_nodes)
        ]
        return self._time(found[0]) - self._time(found[1])

    def _time(self, nodes: Sequence[NodeTime]) -> float:
        """As a share of the float model's time."""
        return sum(node.ms for node in nodes) / max(self._float_ms, 1e-9)

    @cached_property
    def _float_ms(self) -> float:
        artifact = self.evaluator.builder.build(Recipe(method="fp32")).artifact
        return sum(node.ms for node in self._profile(artifact))

    @cached_property
    def _base_artifact(self) -> Artifact:
        return self._build({})

    @cached_property
    def _base_outputs(self) -> Outputs:
        return self._run(self._base_artifact)

    @cached_property
    def _base_evidence(self) -> Evidence:
        return self._evidence(self._base_outputs)

    @cached_property
    def _base_nodes(self) -> list[NodeTime]:
        return self._profile(self._base_artifact)

    @cached_property
    def _base_kernels(self) -> list[tuple[str, str]]:
        return [(node.name, node.kernel) for node in self._base_nodes]


def _divergence(reference: Outputs, outputs: Outputs) -> float:
    """Mean Kullback-Leibler divergence of class probabilities from the float model's, (n, c)."""
    theirs, ours = _log_softmax(reference), _log_softmax(outputs)
    return float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())


def _log_softmax(scores: Outputs) -> npt.NDArray[np.float64]:
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _noise_share(reference: Outputs, outputs: Outputs) -> float:
    """Power of the error over that of the outputs."""
    noise = np.square(reference.astype(np.float64) - outputs).sum()
    return float(noise / max(np.square(reference, dtype=np.float64).sum(), 1e-300))


def _read(path: Path, key: Mapping[str, Any]) -> tuple[Sensitivity | None, str | None]:
    """What is kept, or why it is refused."""
    if not path.is_file():
        return None, None
    try:
        found = Sensitivity.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        return None, "what was kept is damaged"
    changed = sorted(name for name in {*key, *found.key} if key.get(name) != found.key.get(name))
    if changed:
        return None, f"what was kept is of other {', '.join(map(_name_key, changed))}"
    return found, None


def _name_key(name: str) -> str:
    return {"weights_sha256": "weights", "data_sha256": "data"}.get(name, name)


def _write(path: Path, found: Sensitivity) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(found.model_dump_json().encode())


def _in_order(found: Sensitivity, layers: Sequence[str]) -> Sensitivity:
    rank = {name: index for index, name in enumerate(layers)}
    ordered = sorted(found.costs, key=lambda cost: rank.get(cost.layer, len(rank)))
    return found.model_copy(update={"costs": tuple(ordered)})
