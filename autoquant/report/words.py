"""What is said of trials, in words: pure functions of trials."""

from collections.abc import Mapping, Sequence
from typing import Any

from autoquant.core.metric import drop_interval
from autoquant.core.parity import MIN_SQNR_DB
from autoquant.core.recommend import Recommendation
from autoquant.core.space import FULL, REDUCED
from autoquant.core.trial import Trial

__all__ = [
    "describe_drift",
    "describe_first_target",
    "describe_recommendation",
    "describe_report_gap",
    "describe_saturation",
    "describe_shares",
    "describe_trade",
    "find_first_disagreement",
]

_LACKS = (
    "this model's 8-bit accuracy depends on an instruction that this processor lacks (sums of "
    "products saturate)"
)
_FEWEST, _LEAST_GAP = 3, 0.001  # members, and a tenth of a point, for a gap to be spoken of
_AS_FACTOR = 1.1  # below, a factor of two digits would read as 1


def find_first_disagreement(layers: Sequence[Mapping[str, Any]]) -> str | None:
    """The first layer whose output rounding does not explain; None if no layer is known to be."""
    for layer in layers:
        value = layer.get("sqnr_db")
        if value is not None and value < MIN_SQNR_DB:
            return (
                f"the file parts from the Brevitas model at layer '{layer['name']}': "
                f"SQNR {value:.1f} dB"
            )
    return None


def describe_shares(shares: Sequence[tuple[str, float]], keep: int = 4) -> str:
    """Where the rest of the time goes: `31% of the time (Softmax 12%, Add 8%, ...)`."""
    total = sum(share for _, share in shares)
    named = [f"{kernel} {share:.0%}" for kernel, share in shares[:keep]]
    more = ["..."] if len(shares) > keep else []
    return f"{total:.0%} of the time ({', '.join([*named, *more])})"


def describe_trade(trial: Trial, reference: Trial) -> str:
    """What a model costs and buys against float, in one sentence."""
    assert trial.accuracy_drop is not None
    assert trial.size_bytes is not None
    assert reference.size_bytes is not None
    points = trial.accuracy_drop * 100
    if abs(points) < 0.005:
        change = "as accurate as float"
    else:
        change = f"{abs(points):.2f} points {'below' if points > 0 else 'above'} float"
    parts = [change + ("" if _is_significant(trial) else " (within chance)")]
    if trial.latency_ratio:
        parts.append(_describe_speed(trial))
    parts.append(_describe_share(trial.size_bytes / reference.size_bytes))
    return ", ".join(parts)


def describe_recommendation(choices: Sequence[Recommendation], reference: Trial) -> str:
    """What one trial is recommended for, and the reason, in one sentence."""
    choice = choices[0]
    kinds = "; ".join(f"{item.kind} {item.condition}".strip() for item in choices)
    sentence = f"{kinds}: trial {choice.trial.number}, {describe_trade(choice.trial, reference)}"
    following = choice.next_faster
    if following is None or following.accuracy_drop is None or choice.trial.accuracy_drop is None:
        return f"{sentence}; nothing on the front is faster."
    loss = (following.accuracy_drop - choice.trial.accuracy_drop) * 100
    change = f"loses {loss:.2f} points" if loss >= 0 else f"gains {-loss:.2f} points"
    return f"{sentence}; next faster {change} (trial {following.number})."


def describe_drift(trials: Sequence[Trial]) -> str | None:
    """How much the float model's own time changed over a study; None if it was not timed."""
    seen = [trial.timing or trial.partial for trial in trials]
    times = [item.reference_ms for item in seen if item is not None and item.reference_ms]
    if not times:
        return None
    middle = sorted(times)[len(times) // 2]
    low, high = min(times) / middle - 1, max(times) / middle - 1
    return f"float reference {middle:.3g} ms, {low:+.1%} to {high:+.1%} over the study"


def describe_report_gap(members: Sequence[Trial]) -> str | None:
    """By how much more the members lose on the report split; None where it is no more.

    The best of many on some images is partly the luckiest there: Smith and Winkler 2006, "The
    optimizer's curse", doi:10.1287/mnsc.1050.0451. Or the other images are harder.
    """
    losses = [
        trial.report_accuracy_drop - trial.accuracy_drop
        for trial in members
        if trial.name != "fp32"
        and trial.report_accuracy_drop is not None
        and trial.accuracy_drop is not None
    ]
    mean = sum(losses) / max(1, len(losses))
    if len(losses) < _FEWEST or mean < _LEAST_GAP:
        return None
    return (
        f"on the report split, which chose nothing, the members lose {mean * 100:.2f} points more "
        f"than on the search split (mean of {len(losses)}), by luck in being chosen or by harder "
        "images: go by their report figures"
    )


def describe_saturation(trials: Sequence[Trial]) -> str | None:
    """Whether 8-bit accuracy suffers from a missing instruction; None where nothing tells."""
    named = {trial.name: trial for trial in trials}
    is_full_beside = FULL in named
    full = named.get(FULL if is_full_beside else "w8a8")
    reduced = named.get("w8a8" if is_full_beside else REDUCED)
    if full is None or reduced is None or reduced.state != "complete":
        return None
    if full.state == "failed":
        return f"{_LACKS}: {full.name} failed ({full.error}), {_describe_reduced(reduced)}"
    if not (full.evidence and reduced.evidence):
        return None
    assert full.accuracy is not None
    assert reduced.accuracy is not None
    gain = reduced.accuracy - full.accuracy
    low, _ = drop_interval(reduced.evidence, full.evidence, gain)
    if low <= 0:
        return None
    return f"{_LACKS}: {full.name} {full.accuracy:.2%}, {_describe_reduced(reduced)}"


def _describe_reduced(trial: Trial) -> str:
    return f"with 7-bit weights {trial.accuracy:.2%} ({trial.name}; reduce_range: true)"


def describe_first_target(targets: Sequence[str]) -> str | None:
    """Which target figures are about that name none; None where there is none."""
    if not targets:
        return None
    others = f"; --target {' or '.join(targets[1:])} shows the others" if len(targets) > 1 else ""
    return f"recommendations and milliseconds are about target {targets[0]}{others}"


def _is_significant(trial: Trial) -> bool:
    if trial.accuracy_drop_ci is None:
        return True
    low, high = trial.accuracy_drop_ci
    return low > 0 or high < 0


def _describe_speed(trial: Trial) -> str:
    assert trial.latency_ratio is not None
    low, high = trial.latency_ratio_ci or (trial.latency_ratio, trial.latency_ratio)
    if low <= 1 <= high:
        return "as fast as float"
    is_faster = trial.latency_ratio < 1
    factor = 1 / trial.latency_ratio if is_faster else trial.latency_ratio
    amount = f"{factor - 1:.0%}" if factor < _AS_FACTOR else f"{factor:.2g}x"
    return f"{amount} {'faster' if is_faster else 'slower'}"


def _describe_share(share: float) -> str:
    words = {1: "the same size", 0.5: "half the size", 0.25: "one quarter of the size"}
    return next(
        (text for value, text in words.items() if abs(share / value - 1) < 0.02),
        f"{share:.0%} of the size",
    )
