"""`Check`: a figure that a file carries against the same figure here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoquant.core.noise import Interval, ratios_agree

__all__ = [
    "VERIFY_STAGES",
    "Check",
    "Verification",
    "check_accuracy",
    "check_latency",
    "describe_machine_change",
    "find_condition_changes",
    "moves_accuracy",
    "moves_latency",
]

# What a verification is busy with, in order, as it announces it.
VERIFY_STAGES = (
    "loading the task",
    "quantizing anew",
    "measuring accuracy and latency",
    "reading the report split",
    "looking at the layers",
)
# The float model itself runs this much faster or slower than when the passport was written:
# the machine is in another state (frequency, neighbours), and a ratio may have moved with it.
_DRIFT = 0.05
# Accuracies of one file may differ on another processor: float kernels round otherwise.
_ACCURACY_TOLERANCE = 0.002
# What a machine is, apart from the state that it is in.
_IDENTITY = ("cpu", "architecture", "flags", "cores", "system")
_STATE = ("governor", "turbo")
_RUNTIMES = ("onnxruntime", "openvino", "ai-edge-litert")


@dataclass(frozen=True)
class Check:
    """One figure of the passport against the same figure here.

    Attributes:
        name: which figure.
        stored: what the passport says, as text.
        measured: what was found, as text.
        agrees: the verdict; None where the machine, or its state, differs and the figure may
            move.
        note: why there is no verdict, or what explains a bad one.
    """

    name: str
    stored: str
    measured: str
    agrees: bool | None
    note: str = ""

    @property
    def verdict(self) -> str:
        """In a word, for a table."""
        refusal = f"NO: {self.note}" if self.note else "NO"
        return {True: "yes", False: refusal, None: self.note or "other conditions"}[self.agrees]


@dataclass(frozen=True)
class Verification:
    """Every check, and what runs each layer."""

    checks: list[Check]
    layers: list[dict[str, Any]]

    @property
    def ok(self) -> bool:
        """No check disagrees."""
        return all(check.agrees is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "ok": self.ok,
            "checks": [vars(check) for check in self.checks],
            "layers": self.layers,
        }


def describe_machine_change(stored: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """How two machines differ, in words; None if they are the same."""
    # flags that nothing tells are None today and were an empty list once
    changed = [
        key
        for key in _IDENTITY
        if key in stored and (stored[key] or None) != (here.get(key) or None)
    ]
    if not changed:
        return None
    return "; ".join(f"{key} was {stored[key]}, is {here.get(key)}" for key in changed)


def find_condition_changes(
    passport: Mapping[str, Any],
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    protocol: int,
) -> list[Check]:
    """What else may move figures and is not as it was: versions, clock, latency protocol.

    Args:
        passport: of a file.
        machine: this one.
        versions: installed here, by package.
        protocol: of timings here.
    """
    stored_versions, stored_machine = passport.get("versions") or {}, passport["machine"]
    pairs = {
        **{f"version of {name}": (stored_versions.get(name), versions[name]) for name in versions},
        **{name: (stored_machine.get(name), machine.get(name)) for name in _STATE},
        "latency protocol": (passport["conditions"].get("latency_protocol"), protocol),
    }
    return [
        Check(name, str(stored), str(here), None, "figures may move")
        for name, (stored, here) in pairs.items()
        if stored is not None and here is not None and stored != here
    ]


def moves_latency(change: Check) -> bool:
    """Whether a changed condition excuses another latency: packages that only build do not."""
    return not change.name.startswith("version of ") or moves_accuracy(change)


def moves_accuracy(change: Check) -> bool:
    """Whether a changed condition excuses another accuracy: only the runtime's version."""
    return change.name.removeprefix("version of ") in _RUNTIMES


def check_accuracy(
    name: str, stored: float | None, here: float | None, drop_ci: Interval | None, note: str | None
) -> Check:
    """An accuracy of the passport against the one measured here.

    Args:
        name: which.
        stored: of the passport, a fraction.
        here: measured on this machine.
        drop_ci: 95 % interval of the passport's drop. Half of it is what the images that two
            versions of a model judge differently are worth: rounding moves no more of them
            than quantization did.
        note: why it may move; None if it must be the same to the last digit.
    """
    if stored is None or here is None:
        return Check(name, str(stored), str(here), stored == here)
    figures = f"{stored:.4%}", f"{here:.4%}"
    if note is None:
        return Check(name, *figures, stored == here)
    low, high = drop_ci or (0.0, 0.0)
    if abs(stored - here) <= _ACCURACY_TOLERANCE + (high - low) / 2:
        return Check(name, *figures, True)
    return Check(name, *figures, False if here < stored else None, note)


def check_latency(
    stored: Mapping[str, Any], ratio: float, ratio_ci: Interval, reference_ms: float, same: bool
) -> Check:
    """The latency ratio of a passport against the one measured here.

    Args:
        stored: the passport's measurement.
        ratio: measured here.
        ratio_ci: its interval.
        reference_ms: the float model's time here.
        same: whether this is the machine of the passport, in the same conditions.
    """
    old = float(stored["latency_ratio"])
    old_ci = stored.get("latency_ratio_ci")
    agrees: bool | None = ratios_agree(old, old_ci, ratio, ratio_ci)
    note = ""
    if not same and not agrees:
        agrees, note = None, "moves with the processor and its conditions"
    elif not agrees and abs(reference_ms / _reference_ms(stored) - 1) > _DRIFT:
        agrees, note = None, "float itself runs at another speed now"
    return Check("latency ratio", _format(old, old_ci), _format(ratio, ratio_ci), agrees, note)


def _format(ratio: float, interval: Interval | None) -> str:
    if interval is None:
        return f"{ratio:.3f}"
    return f"{ratio:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _reference_ms(stored: Mapping[str, Any]) -> float:
    """Latency of the float model beside which a file was timed."""
    timing = stored.get("timing")
    if timing:
        return float(timing["reference_ms"])
    return float(stored["latency_ms"]) / float(stored["latency_ratio"])
