"""Timing of ONNX files. Needs one runtime and numpy alone: it runs on an edge box."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoquant.backends.base import FileBackend, FileSession
from autoquant.backends.latency import (
    CANDIDATE_INSTANCES,
    REFERENCE_INSTANCES,
    Comparison,
    Instance,
    LatencyProtocol,
    compare,
)
from autoquant.backends.machine import describe_machine
from autoquant.backends.quiet import QuietPlace
from autoquant.backends.registry import DEFAULT_BACKEND, backend_of, load_backend
from autoquant.core.artifact import Artifact
from autoquant.core.check import Check, Verification, check_latency, describe_machine_change
from autoquant.errors import ArtifactError, AutoquantError

__all__ = ["bench_files", "verify_latency"]

_PROTOCOL = LatencyProtocol(warmup_s=0.5, min_slices=12, max_s=5.0, pause_s=0.1)
_PASSPORT = "autoquant.passport"


@dataclass(frozen=True)
class _Conditions:
    """What all timings of one call have in common."""

    backend: FileBackend
    threads: int
    batch: int


def bench_files(
    contents: Mapping[str, bytes],
    first: str,
    threads: int = 1,
    batch: int = 1,
    backend: str = DEFAULT_BACKEND,
) -> dict[str, Any]:
    """Time one file, or two alternately, and say where the time goes.

    Args:
        contents: bytes by name, one or two.
        first: name of the file that the ratio is of.
        threads: threads of the runs.
        batch: batch size.
        backend: name of the runtime.

    Returns:
        `latency_ms`, `ratio` and the like; what concerns a second file is None without one.
        `operators` lists, for each kernel, nodes and milliseconds in each file.

    Raises:
        ArtifactError: a file that the runtime cannot load or run; names it.
        InputError: a backend that is unknown or not installed.
    """
    conditions = _Conditions(load_backend(backend), threads, batch)
    files = {name: Artifact(content, {}, {}) for name, content in contents.items()}
    others = [name for name in contents if name != first]
    other = others[0] if others else first
    is_pair = bool(others)
    result = _compare(files, first, other, conditions)
    return {
        "backend": backend,
        "latency_ms": result.latency_ms,
        "latency_ms_ci": result.latency_ms_ci,
        "vs_latency_ms": result.reference_ms if is_pair else None,
        "vs_latency_ms_ci": result.reference_ms_ci if is_pair else None,
        "ratio": result.ratio if is_pair else None,
        "ratio_ci": result.ratio_ci if is_pair else None,
        "samples": result.samples,
        "stable": result.stable,
        **dict(zip(("p50_ms", "p90_ms", "p99_ms"), result.percentiles_ms, strict=True)),
        "peak_memory_bytes": {
            name: conditions.backend.measure_memory(file, threads) for name, file in files.items()
        },
        "operators": _tabulate_operators(files, conditions),
    }


def verify_latency(
    name: str, content: bytes, reference: tuple[str, bytes] | None = None
) -> Verification:
    """Time a file that autoquant exported, on its passport's backend, and compare with that.

    Args:
        name: what to call the file.
        content: its bytes.
        reference: name and bytes of the float model's file; without it there is no ratio,
            and milliseconds are all that can be compared.

    Raises:
        ArtifactError: no passport, no latency in it, or a reference of other weights.
        InputError: the passport's backend is not installed here.
    """
    passport = _read_passport(name, content)
    stored = passport.get("measurement") or {}
    if not stored.get("latency_ratio"):
        raise ArtifactError(f"{name}: the passport holds no latency to replay")
    noted = passport["conditions"]
    backend = load_backend(backend_of(noted))
    conditions = _Conditions(backend, int(noted["threads"]), int(noted["batch"]))
    files = {name: Artifact(content, {}, {})}
    other = name
    if reference is not None:
        other, other_content = reference
        _check_reference(other, other_content, passport)
        files[other] = Artifact(other_content, {}, {})
    result = _compare(files, name, other, conditions)
    change = describe_machine_change(passport["machine"], describe_machine())
    checks = [_check_machine(change), _check_milliseconds(stored, result, change is None)]
    if reference is not None:
        ratio = check_latency(
            stored, result.ratio, result.ratio_ci, result.reference_ms, change is None
        )
        checks.append(ratio)
    return Verification(checks, [])


def _compare(
    files: Mapping[str, Artifact], first: str, other: str, conditions: _Conditions
) -> Comparison:
    counts = {other: REFERENCE_INSTANCES, first: CANDIDATE_INSTANCES}
    with QuietPlace(conditions.threads).turn():
        models = {name: _load(name, file, conditions, counts[name]) for name, file in files.items()}
        return compare(models[first], models[other], _PROTOCOL)


def _load(name: str, file: Artifact, conditions: _Conditions, count: int) -> list[Instance]:
    def load() -> FileSession:
        return conditions.backend.load(file, conditions.threads)

    try:
        session = load()
        inputs = session.random_inputs(conditions.batch)
        session.time_once(inputs)
    except AutoquantError as error:
        raise ArtifactError(f"{name}: {error}") from error
    return Instance.several(load, inputs, file.size_bytes, count)


def _tabulate_operators(
    files: Mapping[str, Artifact], conditions: _Conditions
) -> list[dict[str, Any]]:
    """Nodes and milliseconds by kernel and file, the most expensive kernels first."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name, file in files.items():
        for node in conditions.backend.profile_nodes(file, conditions.threads, conditions.batch):
            cell = rows.setdefault(node.kernel, {}).setdefault(name, {"nodes": 0, "ms": 0.0})
            cell["nodes"] += 1
            cell["ms"] += node.ms
    ordered = sorted(rows.items(), key=lambda row: -max(cell["ms"] for cell in row[1].values()))
    return [{"kernel": kernel, "files": cells} for kernel, cells in ordered]


def _read_passport(name: str, content: bytes) -> dict[str, Any]:
    # A file's backend stands in its passport, so one backend reads all passports.
    load_backend("onnxruntime")  # or says what to install
    from autoquant.backends.onnxruntime import read_metadata

    try:
        metadata = read_metadata(content)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    if _PASSPORT not in metadata:
        raise ArtifactError(f"{name} carries no passport: it was not exported by autoquant")
    try:
        passport = json.loads(metadata[_PASSPORT])
        return {**passport, "conditions": passport["conditions"], "machine": passport["machine"]}
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{name}: the passport in this file is damaged") from error


def _check_reference(name: str, content: bytes, passport: Mapping[str, Any]) -> None:
    """The float file must hold the weights that the quantized one was made of."""
    other = _read_passport(name, content)
    if other.get("recipe", {}).get("method") != "fp32":
        raise ArtifactError(f"{name} is not a float file: make one with --recipe fp32")
    if other.get("weights_sha256") != passport.get("weights_sha256"):
        raise ArtifactError(f"{name} holds other weights than the file that is to be verified")


def _check_machine(change: str | None) -> Check:
    if change is None:
        return Check("machine", "the same", "the same", True)
    return Check("machine", "another", change, None, "latencies are expected to move")


def _check_milliseconds(stored: Mapping[str, Any], result: Comparison, same: bool) -> Check:
    """Milliseconds are shown; they drift, so they decide nothing."""
    note = "drifts; the ratio decides" if same else "moves with the processor"
    low, high = result.latency_ms_ci
    here = f"{result.latency_ms:.4g} ({low:.4g} to {high:.4g})"
    return Check("latency (ms)", f"{stored['latency_ms']:.4g}", here, None, note)
