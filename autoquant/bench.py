"""Timing of model files. Needs one runtime and numpy alone: it runs on an edge box."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoquant.backends.base import FileBackend, FileSession
from autoquant.backends.latency import (
    CANDIDATE_INSTANCES,
    PROTOCOL_VERSION,
    REFERENCE_INSTANCES,
    Comparison,
    Instance,
    LatencyProtocol,
    compare,
)
from autoquant.backends.machine import (
    describe_machine,
    explain_oversubscription,
)
from autoquant.backends.quiet import QuietPlace
from autoquant.backends.registry import backend_for, backend_of, load_backend
from autoquant.core.artifact import Artifact, is_tflite
from autoquant.core.check import (
    Check,
    Verification,
    check_latency,
    describe_machine_change,
    find_condition_changes,
)
from autoquant.errors import ArtifactError, AutoquantError, InputError

__all__ = ["bench_files", "find_caveats", "verify_latency"]

File = tuple[str, bytes]  # what to call it, its content
Warn = Callable[[str], None]

_PROTOCOL = LatencyProtocol(warmup_s=0.5, min_slices=12, max_s=5.0, pause_s=0.1)
_PASSPORT = "autoquant.passport"


@dataclass(frozen=True)
class _Conditions:
    """What all timings of one call have in common."""

    backend: str | None
    threads: int
    batch: int

    def backend_for(self, content: bytes) -> FileBackend:
        """What runs a file: every format has runtimes of its own."""
        return load_backend(backend_for(content, self.backend))


def bench_files(
    file: File,
    other: File | None = None,
    threads: int = 1,
    batch: int = 1,
    backend: str | None = None,
) -> dict[str, Any]:
    """Time one file, or two alternately, and say where the time goes.

    Args:
        file: name and bytes.
        other: likewise, of the file that it is timed against; may be the same one.
        threads: threads of the runs.
        batch: batch size.
        backend: name of the runtime for the files that it reads; the usual one for their format
            if left out. Two files of different formats are timed each on its own.

    Returns:
        `latency_ms`, `ratio` and the like; what concerns a second file is None without one.
        `operators` lists, for each kernel, nodes and milliseconds in each file, named by its
        role: `model` and `vs`, as in `files` and `peak_memory_bytes`.

    Raises:
        ArtifactError: a file that the runtime cannot load or run; names it.
        InputError: a backend that is unknown or not installed.
    """
    conditions = _Conditions(backend, threads, batch)
    used = {backend_for(content, backend) for _, content in (file, *([other] if other else []))}
    if backend is not None and backend not in used:
        raise InputError(
            f"--backend {backend} reads none of these files: leave it out, and each is timed on "
            "the runtime of its format"
        )
    roles = {"model": file} if other is None else {"model": file, "vs": other}
    artifacts = {role: Artifact(content, {}, {}) for role, (_, content) in roles.items()}
    with QuietPlace(threads).turn():
        result = _compare(file, other or file, conditions)
        memory = {
            role: conditions.backend_for(artifact.content).measure_memory(artifact, threads, batch)
            for role, artifact in artifacts.items()
        }
        operators = _tabulate_operators(artifacts, conditions)
    is_pair = other is not None
    return {
        "backend": backend_for(file[1], backend),
        "backends": {role: backend_for(content, backend) for role, (_, content) in roles.items()},
        "files": {role: name for role, (name, _) in roles.items()},
        "latency_ms": result.latency_ms,
        "latency_ms_ci": result.latency_ms_ci,
        "vs_latency_ms": result.reference_ms if is_pair else None,
        "vs_latency_ms_ci": result.reference_ms_ci if is_pair else None,
        "ratio": result.ratio if is_pair else None,
        "ratio_ci": result.ratio_ci if is_pair else None,
        "samples": result.samples,
        "stable": result.stable,
        **dict(zip(("p50_ms", "p90_ms", "p99_ms"), result.percentiles_ms, strict=True)),
        "peak_memory_bytes": memory,
        "operators": operators,
    }


def find_caveats(result: Mapping[str, Any]) -> list[str]:
    """What the runtimes of these timings lack, so that they do not compare with others.

    Args:
        result: of `bench_files`.
    """
    found = (load_backend(name).caveat for name in dict.fromkeys(result["backends"].values()))
    return [caveat for caveat in found if caveat is not None]


def verify_latency(
    name: str, content: bytes, reference: File | None = None, warn: Warn = lambda text: None
) -> Verification:
    """Time a file that autoquant exported, on its passport's backend, and compare with that.

    Args:
        name: what to call the file.
        content: its bytes.
        reference: name and bytes of the float model's file; without it there is no ratio,
            and milliseconds are all that can be compared.
        warn: called with one line if the passport's threads are too many for this machine.

    Raises:
        ArtifactError: no passport, a damaged one, no latency in it, or a reference of other
            weights.
        InputError: the passport's backend is not installed here.
    """
    passport = _read_passport(name, content)
    stored = passport.get("measurement") or {}
    if not stored.get("latency_ratio"):
        raise ArtifactError(f"{name}: the passport holds no latency to replay")
    noted = passport["conditions"]
    if reference is not None:
        _check_reference(*reference, passport)
        if is_tflite(reference[1]) != is_tflite(content):
            raise ArtifactError(
                f"{reference[0]} is a file for another runtime than {name}, whose ratio is to the "
                f"float model on {backend_of(noted)}: make one with --recipe fp32 --backend "
                f"{backend_of(noted)}"
            )
    backend = load_backend(backend_of(noted))
    if backend.caveat is not None:
        warn(backend.caveat)
    conditions = _Conditions(backend.name, int(noted["threads"]), int(noted["batch"]))
    excess = explain_oversubscription(conditions.threads)
    if excess is not None:
        warn(excess)
    changes, is_same = _find_changes(passport, backend)
    file = name, content

    def measure() -> Comparison:
        with QuietPlace(conditions.threads).turn():
            return _compare(file, reference or file, conditions)

    result = measure()
    checks = [*changes, _check_milliseconds(stored, result, is_same)]
    if reference is not None:
        ratio = _check_ratio(stored, result, is_same)
        # of intervals at 95 %, one in twenty disagrees
        again = _check_ratio(stored, measure(), is_same) if ratio.agrees is False else ratio
        checks.append(again)
    return Verification(checks, [])


def _find_changes(passport: Mapping[str, Any], backend: FileBackend) -> tuple[list[Check], bool]:
    """What is not as it was when the passport was written, and whether nothing is."""
    here = describe_machine()
    machine = describe_machine_change(passport["machine"], here)
    versions = backend.fingerprint()["versions"]
    others = find_condition_changes(passport, here, versions, PROTOCOL_VERSION)
    return [_check_machine(machine), *others], machine is None and not others


def _check_ratio(stored: Mapping[str, Any], result: Comparison, is_same: bool) -> Check:
    return check_latency(stored, result.ratio, result.ratio_ci, result.reference_ms, is_same)


def _compare(file: File, other: File, conditions: _Conditions) -> Comparison:
    """Within a turn."""
    model = _load(*file, conditions, CANDIDATE_INSTANCES)
    reference = _load(*other, conditions, REFERENCE_INSTANCES)
    return compare(model, reference, _PROTOCOL)


def _load(name: str, content: bytes, conditions: _Conditions, count: int) -> list[Instance]:
    file, runtime = Artifact(content, {}, {}), conditions.backend_for(content)

    def load() -> FileSession:
        return runtime.load(file, conditions.threads)

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
    """Nodes and milliseconds by kernel and role, the most expensive kernels first."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for role, file in files.items():
        runtime = conditions.backend_for(file.content)
        for node in runtime.profile_nodes(file, conditions.threads, conditions.batch):
            cell = rows.setdefault(node.kernel, {}).setdefault(role, {"nodes": 0, "ms": 0.0})
            cell["nodes"] += 1
            cell["ms"] += node.ms
    ordered = sorted(rows.items(), key=lambda row: -max(cell["ms"] for cell in row[1].values()))
    return [{"kernel": kernel, "files": cells} for kernel, cells in ordered]


def _read_passport(name: str, content: bytes) -> dict[str, Any]:
    try:
        text = _read_passport_text(content)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    if text is None:
        raise ArtifactError(f"{name} carries no passport: it was not exported by autoquant")
    try:
        passport = json.loads(text)
        _check_passport(passport)
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{name}: the passport in this file is damaged") from error
    return dict(passport)


def _read_passport_text(content: bytes) -> str | None:
    """What the file has for a passport; any of the runtimes of its format reads it."""
    load_backend(backend_for(content))  # or says what to install
    if is_tflite(content):
        from autoquant import tflite

        return tflite.read_metadata(content).get(_PASSPORT)
    from autoquant.backends.onnxruntime import read_metadata

    return read_metadata(content).get(_PASSPORT)


def _check_passport(passport: Any) -> None:
    """Whether what is read here has the shape that autoquant writes.

    pydantic, which does this elsewhere, is not on an edge box.

    Raises:
        ValueError, TypeError, KeyError: it has not.
    """
    for key in ("conditions", "machine"):
        _demand(isinstance(passport[key], dict))
    _demand(all(_is_count(passport["conditions"][key]) for key in ("threads", "batch")))
    for key in ("versions", "recipe", "measurement"):
        _demand(isinstance(passport.get(key) or {}, dict))
    stored = passport.get("measurement") or {}
    if stored.get("latency_ratio") is not None:
        _demand(all(_is_positive(stored[key]) for key in ("latency_ratio", "latency_ms")))
        interval = stored.get("latency_ratio_ci")
        _demand(interval is None or (len(interval) == 2 and all(map(_is_positive, interval))))
        timing = stored.get("timing")
        _demand(timing is None or _is_positive(timing["reference_ms"]))


def _demand(is_so: bool) -> None:
    if not is_so:
        raise ValueError


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf  # type: ignore[operator]


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
