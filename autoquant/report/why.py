"""Why a recipe is as it is, in words and tables: pure functions of an `Explanation`."""

from collections import Counter
from collections.abc import Sequence

from autoquant.core.explanation import ChoiceEvidence, Explanation, LayerReason, Outcome
from autoquant.core.noise import Z95
from autoquant.report.row import format_drop

__all__ = [
    "LEGEND",
    "describe_trust",
    "find_step_down",
    "flatten_reasons",
    "half_width",
    "summarize_reasons",
    "tabulate_options",
    "tabulate_reasons",
]

_RAW = ("drop_change", "drop_change_se", "size_change_bytes", "latency_change", "source", "trial")
_NOTHING = ("-", "0", "0.0")
_LEAST_RATIO, _LEAST_POINTS = 0.01, 0.005
LEGEND = (
    "alone costs: points that this choice of this layer alone is expected to cost against 8 bits "
    "(in brackets, measured). B and us to 8, to float: bytes and microseconds saved against 8 bits "
    "and float. at ...: what changing that layer alone would do to this recipe: points of drop "
    "with a 95 % interval, bytes, and the latency ratio where that would change beyond its error; "
    "~ is an estimate, # the trial of this study that measured it."
)


def bits_of(choice: str) -> int:
    """Width of a choice's weights."""
    return 32 if choice == "float" else int(choice.partition(":")[0])


def find_step_down(layer: LayerReason) -> Outcome | None:
    """The next narrower choice; None where the layer has its narrowest."""
    own = bits_of(layer.choice)
    below = [outcome for outcome in layer.outcomes if bits_of(outcome.choice) < own]
    return max(below, key=lambda outcome: bits_of(outcome.choice), default=None)


def summarize_reasons(found: Explanation) -> str:
    """What the recipe does and where it stops, in one sentence."""
    counts = Counter(bits_of(layer.choice) for layer in found.layers)
    narrowest = min(counts)
    low = [layer for layer in found.layers if bits_of(layer.choice) == narrowest]
    saved = sum(layer.saved_bytes_to_8 for layer in low)
    name = _name_width(narrowest)
    if len(low) == len(found.layers):
        parts = [f"{name} in all {len(low)} layers"]
    else:
        parts = [f"{name} in {len(low)} of {len(found.layers)} layers"]
    if narrowest < 8 and saved > 0:
        verb = "saves" if len(low) == 1 else "save"
        parts[0] += f" {verb} {_format_bytes(saved)}"
    staying = _find_dearest(found.layers)
    if staying is not None:
        parts.append(_describe_staying(*staying, found.trust.size_error_bytes or 0.0))
    return "; ".join(parts) + "."


def _find_dearest(layers: Sequence[LayerReason]) -> tuple[LayerReason, Outcome] | None:
    """The layer of which a step down would cost most accuracy."""
    steps = [
        (layer, step)
        for layer in layers
        if (step := find_step_down(layer)) is not None and step.drop_change is not None
    ]
    return max(steps, key=lambda item: item[1].drop_change or 0.0, default=None)


def _describe_staying(layer: LayerReason, step: Outcome, size_error: float) -> str:
    points, doubt = 100 * (step.drop_change or 0.0), half_width(step)
    would = "would cost about" if step.source == "estimate" else "cost"
    margin = "" if doubt is None else f" ±{doubt:.2f}"
    cost = f"{would} {points:.2f}{margin} points"
    if points < _LEAST_POINTS:
        cost = f"{would.removesuffix(' about')} no accuracy"
        cost += "" if doubt is None else f" (±{doubt:.2f} points)"
    saved = -(step.size_change_bytes or 0)
    gain = f" for {_format_bytes(saved)}" if saved > 0 else ""
    if layer.size_source == step.source == "estimate" and abs(saved) < size_error:
        gain = f" for less than {_format_bytes(round(size_error))}"
    tried = "" if step.trial is None else f" in trial {step.trial}"
    return f"{layer.layer} stays at {layer.choice}: at {step.choice} it {cost}{gain}{tried}"


def half_width(outcome: Outcome) -> float | None:
    """Half of the 95 % interval of a change of the drop, points; None where none is known."""
    if outcome.drop_change_se is not None:
        return 100 * Z95 * outcome.drop_change_se
    if outcome.drop_change_ci is None:
        return None
    low, high = outcome.drop_change_ci
    return 50 * (high - low)


def describe_trust(found: Explanation) -> str:
    """How good the estimates were in this study, and what they are not."""
    trust = found.trust
    parts = []
    if trust.drop_error is None or trust.drop_spread is None:
        parts.append(
            f"Estimates are of a model that learned from {trust.trials} trials, too few near the "
            "allowed drop to say how good it is"
        )
    else:
        rank = trust.rank_correlation
        order = "" if rank is None else f", rank correlation {rank:.2f}"
        parts.append(
            f"Estimates are of the search's model: each of the last {trust.judged} trials near "
            f"the allowed drop, predicted from the {trust.trials - 1} others, was off by "
            f"{100 * trust.drop_error:.2f} points (guessing their mean: "
            f"{100 * trust.drop_spread:.2f}{order})"
        )
    if trust.is_lost:
        parts.append("the search itself mistrusts the model here")
    if trust.size_error_bytes is not None:
        parts.append(f"sizes were off by {trust.size_error_bytes:,.0f} bytes")
    if trust.latency_error is not None:
        parts.append(f"latency ratios by {trust.latency_error:.3f}")
    if found.is_trained:
        parts.append("all of them are of the same recipes before training")
    sentence = "; ".join(parts) + "."
    return f"{sentence} {_describe_knowledge(found)}"


def _describe_knowledge(found: Explanation) -> str:
    if found.proxy is None:
        return (
            "No sensitivities were measured before this search: what single layers cost is what "
            "the trials alone teach."
        )
    what = {
        "kl": "the KL divergence of the class probabilities",
        "noise": "the power of the outputs' error",
    }[found.proxy]
    return (
        f"Sensitivities are of one layer alone, on {found.sensitivity_samples:,} samples; what a "
        f"choice is expected to cost there is a proxy ({what}) in points."
    )


def tabulate_reasons(found: Explanation) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one a layer in network order; estimates carry a `~`.

    Columns that are empty, or zero in every row, are left out.
    """
    others, noise = _choices(found), found.trust.latency_error
    columns = [
        "layer", "kind", "weights", "choice", "alone costs", "B to 8", "B to float", "us to 8",
        "us to float", *(f"at {choice}" for choice in others),
    ]  # fmt: skip
    rows = [_row(layer, others, noise) for layer in found.layers]
    told = [
        index for index in range(len(columns)) if any(row[index] not in _NOTHING for row in rows)
    ]
    return [columns[index] for index in told], [[row[index] for index in told] for row in rows]


def _row(layer: LayerReason, others: Sequence[str], noise: float | None) -> list[str]:
    outcomes = {outcome.choice: outcome for outcome in layer.outcomes}
    mark = "" if layer.size_source == "file" else "~"
    return [
        layer.layer,
        layer.kind or "-",
        "-" if layer.parameters is None else f"{layer.parameters:,}",
        layer.choice,
        _format_evidence(layer.evidence),
        _format_saved(layer.saved_bytes_to_8, mark),
        _format_saved(layer.saved_bytes_to_float, mark),
        "-" if layer.saved_us_to_8 is None else f"{layer.saved_us_to_8:.1f}",
        "-" if layer.saved_us_to_float is None else f"{layer.saved_us_to_float:.1f}",
        *(format_outcome(outcomes.get(choice), noise) for choice in others),
    ]


def _format_saved(saved: int, mark: str) -> str:
    return f"{mark if saved else ''}{saved:,}"


def _format_evidence(evidence: ChoiceEvidence | None) -> str:
    """Points by the proxy, and in brackets what was measured."""
    if evidence is None:
        return "-"
    measured = format_drop(evidence.extra_drop, evidence.extra_drop_ci)
    return f"{100 * evidence.expected_drop:+.2f} ({measured})"


def format_outcome(outcome: Outcome | None, noise: float | None) -> str:
    """Points, bytes and latency of a change, and which trial measured it: `~+0.40 ±0.12, -1,152`.

    The interval is 95 % of the model or of the paired measurement.

    Args:
        outcome: None where the layer has this choice, or cannot have it.
        noise: of estimated latency ratios; what does not exceed it is not told.
    """
    if outcome is None:
        return "-"
    tried = f" (#{outcome.trial})"
    if outcome.source == "failed" or outcome.drop_change is None:
        return f"{outcome.source}{tried}"
    is_estimate = outcome.source == "estimate"
    text = f"{'~' if is_estimate else ''}{100 * outcome.drop_change:+.2f}"
    doubt = half_width(outcome)
    text += "" if doubt is None else f" ±{doubt:.2f}"
    parts = [text]
    if outcome.size_change_bytes is not None:
        parts.append(f"{outcome.size_change_bytes:+,}")
    least = max(_LEAST_RATIO, (noise or 0.0) if is_estimate else 0.0)
    if outcome.latency_change is not None and abs(outcome.latency_change) >= least:
        parts.append(f"{outcome.latency_change:+.3f} x")
    state = " rejected" if outcome.source == "rejected" else ""
    return ", ".join(parts) + ("" if is_estimate else f"{state}{tried}")


def tabulate_options(found: Explanation) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one for each other value of an option."""
    noise = found.trust.latency_error
    rows = [
        [option.option, option.value, outcome.choice, format_outcome(outcome, noise)]
        for option in found.options
        for outcome in option.outcomes
    ]
    return ["option", "is", "other", "would change"], rows


def flatten_reasons(found: Explanation) -> tuple[list[str], list[list[str]]]:
    """Every figure as it is, for CSV: one row a layer, fractions and bytes."""
    others = _choices(found)
    own = ["layer", "kind", "parameters", "choice", "saved_bytes_to_8", "saved_bytes_to_float",
           "size_source", "saved_us_to_8", "saved_us_to_float"]  # fmt: skip
    measured = ["expected_drop", "extra_drop", "proxy"]
    columns = [*own, *measured, *(f"{choice}.{name}" for choice in others for name in _RAW)]
    rows = []
    for layer in found.layers:
        outcomes = {outcome.choice: outcome for outcome in layer.outcomes}
        cells = [getattr(layer, name) for name in own]
        cells += [getattr(layer.evidence, name, None) for name in measured]
        cells += [getattr(outcomes.get(choice), name, None) for choice in others for name in _RAW]
        rows.append(["" if cell is None else str(cell) for cell in cells])
    return columns, rows


def _choices(found: Explanation) -> list[str]:
    """Choices that some layer could take, the narrowest first."""
    seen = {outcome.choice for layer in found.layers for outcome in layer.outcomes}
    return sorted(seen, key=lambda choice: (bits_of(choice), choice))


def _name_width(bits: int) -> str:
    return "Float" if bits == 32 else f"{bits} bits"


def _format_bytes(count: int) -> str:
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:.1f} kB" if count < 10_000 else f"{count / 1000:.0f} kB"
