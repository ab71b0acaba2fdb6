"""Figure and rows: quantization error of every layer, trials against each other."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from autoquant.core.layer import LayerNoise
from autoquant.report.layer_panels import (
    decibel_point,
    describe_decibels,
    lay_out_layers,
    layer_line,
    layer_panels,
    styles,
)

__all__ = ["TrialNoises", "tabulate_trial_noise", "trial_noise_figure"]

# of a trial's file, by its number; layers in network order
TrialNoises = Mapping[int, Sequence[LayerNoise]]

_PANELS = {
    "weight_db": "Weights: file against float model",
    "output_db": "Output of the layer: the errors of all layers before it included",
}


def trial_noise_figure(noises: TrialNoises, title: str = "") -> go.Figure:
    """SQNR of weights and outputs by layer, a line a trial.

    Args:
        noises: by trial.
        title: what the reader is to take away.
    """
    figure = layer_panels(list(_PANELS.values()))
    for (number, noise), style in zip(noises.items(), styles(), strict=False):
        for row, kind in enumerate(_PANELS, start=1):
            points = [decibel_point(item.layer, getattr(item, kind)) for item in noise]
            line = layer_line(points, f"trial {number}", style, is_named=row == 1)
            figure.add_trace(line, row=row, col=1)
    lay_out_layers(figure, _layers(noises), title, len(_PANELS))
    figure.update_yaxes(title="SQNR (dB)")
    return figure


def tabulate_trial_noise(noises: TrialNoises) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a layer a row, weights and output of every trial."""
    columns = [f"trial {number}: {what}" for number in noises for what in ("weights", "output")]
    by_layer = [{item.layer: item for item in noise} for noise in noises.values()]
    rows = [
        [layer, *(describe_decibels(getattr(found.get(layer), kind, None))
                  for found in by_layer for kind in _PANELS)]
        for layer in _layers(noises)
    ]  # fmt: skip
    return ["layer", *columns], rows


def _layers(noises: TrialNoises) -> list[str]:
    return list(dict.fromkeys(item.layer for noise in noises.values() for item in noise))
