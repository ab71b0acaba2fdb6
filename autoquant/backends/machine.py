"""Facts on the machine that a timing depends on."""

import math
import os
import platform
import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = [
    "SATURATES",
    "available_cores",
    "available_memory",
    "describe_machine",
    "explain_oversubscription",
    "find_kernel",
    "grant_cores",
    "has_integer_dot_product",
    "package_versions",
    "usable_cores",
]

# Flags that decide which integer kernels run.
_RELEVANT = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
_DOT_PRODUCT = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
_CGROUP = Path("/sys/fs/cgroup")
_CPU = Path("/sys/devices/system/cpu")


_granted: int | None = None


def grant_cores(count: int) -> None:
    """Let this process keep so many cores busy at most: others work beside it."""
    global _granted
    _granted = max(1, count)


def available_cores() -> int:
    """Cores that this process may use: its affinity, a smaller quota of its cgroup, its grant."""
    allowed = _within_quota(_affinity())
    return allowed if _granted is None else min(allowed, _granted)


def _within_quota(cores: int) -> int:
    quota = _cgroup_cores()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


@cache
def usable_cores() -> frozenset[int]:
    """Cores of this process when it first asked; for a while it may keep to some of them."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def explain_oversubscription(threads: int) -> str | None:
    """What is wrong with timing so many threads here; None if nothing is."""
    quota = _cgroup_cores()
    allowed = min(_affinity(), math.inf if quota is None else quota)
    if threads <= allowed:
        return None
    limits = [f"{_affinity()} cores"]
    if quota is not None:
        limits.append(f"a cgroup limit of {quota:g} cores")
    count = "1 thread is" if threads == 1 else f"{threads} threads are"
    text = f"{count} to be timed, but this process may use {' and '.join(limits)}: "
    if threads == 1:  # there is no smaller number
        return f"{text}it will be stopped again and again, and latencies will show that"
    return (
        f"{text}the threads will wait for each other and latencies will not be those of "
        f"{threads} cores (use --threads {available_cores()})"
    )


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_cores() -> float | None:
    """The smallest quota on the way to this process's cgroup, in cores (versions 2 and 1)."""
    quotas = [_read_quota(folder) for folder in _cgroup_folders()]
    known = [quota for quota in quotas if quota is not None]
    return min(known, default=None)


def available_memory() -> int | None:
    """Bytes that this process may still take; None where the system does not say.

    What the system has left, and what the limits of this process's cgroup leave (versions 2 and
    1); both count pages of files as free, since they can be dropped. A process that was granted
    a part of the cores takes as large a part of the memory, since others take theirs.
    """
    found = [_system_memory(), *(_read_memory(folder) for folder in _cgroup_folders())]
    free = min((item for item in found if item is not None), default=None)
    if free is None or _granted is None:
        return free
    return int(free * min(1.0, _granted / _within_quota(_affinity())))


def _system_memory() -> int | None:
    lines = (_read(Path("/proc/meminfo")) or "").splitlines()
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found) * 1024


def _read_memory(folder: Path) -> int | None:
    """What the limit of a cgroup leaves; None where it has none."""
    names = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for limit, usage in names:
        values = _read(folder / limit), _read(folder / usage)
        if all(value is not None and value.isdigit() for value in values):
            files = _count_files(_read(folder / "memory.stat") or "")
            return max(0, int(values[0] or 0) - int(values[1] or 0) + files)
    return None


def _count_files(statistics: str) -> int:
    """Bytes of pages of files, in a `memory.stat` of either version."""
    pairs = dict(line.split(maxsplit=1) for line in statistics.splitlines() if " " in line)
    prefix = "total_" if "total_inactive_file" in pairs else ""
    return sum(int(pairs.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))


def _cgroup_folders() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    folders = [_CGROUP, _CGROUP / "cpu", _CGROUP / "memory"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        parts = [part for part in path.strip("/").split("/") if part not in ("", "..")]
        for name in controllers.split(","):  # none in version 2, one or several in version 1
            base = _CGROUP / name
            folders += [base.joinpath(*parts[: end + 1]) for end in range(len(parts))]
    return folders


def _read_quota(folder: Path) -> float | None:
    older = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
    fields = (_read(folder / "cpu.max") or " ".join(part or "" for part in older)).split()
    try:
        quota, period = (float(field) for field in fields)
    except ValueError:  # no such files, or `max`, which is no limit
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@cache
def describe_machine() -> dict[str, Any]:
    """Processor model, its integer instructions, cores, system, governor and turbo."""
    fields = _cpuinfo()
    flags = fields.get("flags") or fields.get("Features")
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "flags": None if flags is None else [item for item in _RELEVANT if item in flags.split()],
        "cores": _within_quota(len(usable_cores())),
        "system": platform.system(),
        "governor": _read(_CPU / "cpu0" / "cpufreq" / "scaling_governor"),
        "turbo": _turbo(),
    }


SATURATES = (
    "sums of 8-bit products saturate on this processor: quantize with reduce_range (7-bit weights)"
)


def has_integer_dot_product(machine: Mapping[str, Any] | None = None) -> bool:
    """Whether sums of 8-bit products are exact on a machine, by default this one.

    Without such an instruction (VNNI on x86-64) products of unsigned activations and signed
    weights are added in 16 bits and saturate. A machine whose flags are unknown counts as
    having it.
    """
    machine = machine or describe_machine()
    flags = machine.get("flags")
    is_known = machine.get("architecture") in ("x86_64", "AMD64") and flags is not None
    return not is_known or bool(_DOT_PRODUCT & set(flags or ()))


def _turbo() -> bool | None:
    """Whether the clock may exceed its nominal frequency; None where nothing tells."""
    disabled = _read(_CPU / "intel_pstate" / "no_turbo")
    boost = _read(_CPU / "cpufreq" / "boost")
    if disabled is not None:
        return disabled == "0"
    return None if boost is None else boost == "1"


def _cpuinfo() -> dict[str, str]:
    text = _read(Path("/proc/cpuinfo")) or ""
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def package_versions(*names: str) -> dict[str, str]:
    """Installed versions by distribution name; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def find_kernel() -> str:
    """What tells machines apart, and containers whose processes do not see each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
