"""The table of the accuracy-loss study: what each cell of the grid loses, takes and needs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from autoquant.core.analysis import METHODS, Cell, Granularity, LossMethod
from autoquant.core.recipe import PtqOptions, WeightBits
from autoquant.core.trial import Trial
from autoquant.report.row import format_drop, format_megabytes

__all__ = [
    "LOSS_COLUMNS",
    "LossPoint",
    "LossRow",
    "describe_cell",
    "describe_seconds",
    "describe_weights",
    "find_points",
    "find_rows",
    "is_main",
    "tabulate_losses",
]

LOSS_COLUMNS = (
    "weights", "method", "drop, search", "drop, report", "quantize", "train",
    "calibration images", "training images", "size", "x float", "note",
)  # fmt: skip

_WIDTHS: tuple[WeightBits, ...] = (8, 4)
_GRANULARITIES: tuple[Granularity, ...] = ("per_channel", "per_tensor")
_FULL = PtqOptions().calibration_images


@dataclass(frozen=True)
class LossPoint:
    """A trial of the grid.

    Attributes:
        cell: what it is.
        trial: what was measured.
        calibration_images: that calibrated it.
    """

    cell: Cell
    trial: Trial
    calibration_images: int

    @property
    def is_complete(self) -> bool:
        """Whether it has figures."""
        return self.trial.state == "complete"


@dataclass(frozen=True)
class LossRow:
    """One cell of the grid as numbers; None is what was not measured.

    Attributes:
        weight_bits: of every layer; with `granularity` and `method` the cell.
        trial: number of the trial, and likewise its `state`.
        accuracy: on the search split; its drop beside it, and that on the report split.
        quantize_seconds: calibration, rounding and corrections; `train_seconds` apart.
        calibration_images: that calibrated it.
        training_images: that it learned from.
        size_ratio: file over the float model's.
        note: why it has no figures, or what is special about it.
    """

    weight_bits: WeightBits
    granularity: Granularity
    method: LossMethod
    trial: int | None = None
    state: str | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    accuracy_drop_ci: tuple[float, float] | None = None
    report_accuracy: float | None = None
    report_accuracy_drop: float | None = None
    report_accuracy_drop_ci: tuple[float, float] | None = None
    quantize_seconds: float | None = None
    train_seconds: float | None = None
    calibration_images: int | None = None
    training_images: int | None = None
    epochs: int | None = None
    size_bytes: int | None = None
    size_ratio: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def find_points(trials: Sequence[Trial], available: int | None = None) -> list[LossPoint]:
    """The trials that are cells of the grid, in its order, whatever theirs.

    Args:
        trials: of one study.
        available: calibration images of the task; None if nobody knows.
    """
    cells = [(Cell.of(trial.recipe), trial) for trial in trials]
    points = [
        LossPoint(cell, trial, min(cell.calibration_images, available or cell.calibration_images))
        for cell, trial in cells
        if cell is not None
    ]
    return sorted(points, key=_order)


def _order(point: LossPoint) -> tuple[int, int, int, int, int]:
    cell = point.cell
    return (
        _WIDTHS.index(cell.weight_bits),
        _GRANULARITIES.index(cell.granularity),
        METHODS.index(cell.method),
        cell.calibration_images,
        point.trial.number,
    )


def is_main(point: LossPoint) -> bool:
    """Whether it is calibrated as the table's cells are, not one of the calibration curve."""
    return point.cell.calibration_images == _FULL


def describe_weights(bits: WeightBits, granularity: Granularity) -> str:
    """`W4 per channel`."""
    return f"W{bits} {granularity.replace('_', ' ')}"


def describe_cell(cell: Cell) -> str:
    """`W4 per channel, learned`."""
    return f"{describe_weights(cell.weight_bits, cell.granularity)}, {cell.method}"


def find_rows(trials: Sequence[Trial], available: int | None = None) -> list[LossRow]:
    """Every cell of the grid, one without a trial as a row without figures.

    Learned rounding has no row at 8 bits: 8-bit weights always go to the nearest point.

    Args:
        trials: of one study.
        available: calibration images of the task; None if nobody knows.
    """
    points = [point for point in find_points(trials, available) if is_main(point)]
    reference = next((trial for trial in trials if trial.name == "fp32"), None)
    rows: list[LossRow] = []
    for bits in _WIDTHS:
        for granularity in _GRANULARITIES:
            for method in METHODS:
                key = (bits, granularity, method)
                found = [_fill(point, reference) for point in points if _key(point.cell) == key]
                means_something = bits == 4 or method != "learned"
                rows += found or ([LossRow(*key)] if means_something else [])
    return rows


def _key(cell: Cell) -> tuple[WeightBits, Granularity, LossMethod]:
    return cell.weight_bits, cell.granularity, cell.method


def _fill(point: LossPoint, reference: Trial | None) -> LossRow:
    cell, trial = point.cell, point.trial
    if not point.is_complete:
        why = trial.error if trial.partial is None else f"stopped early: {trial.partial.reason}"
        return LossRow(*_key(cell), trial.number, trial.state, note=why or trial.state)
    curve, epochs = trial.training, None if cell.training is None else cell.training.epochs
    notes = [
        "7 of 8 bits used" if cell.reduce_range else "",
        "" if curve is None or epochs is None else curve.describe_kept(epochs),
    ]
    base = None if reference is None else reference.size_bytes
    return LossRow(
        *_key(cell), trial.number, trial.state,
        trial.accuracy, trial.accuracy_drop, trial.accuracy_drop_ci,
        trial.report_accuracy, trial.report_accuracy_drop, trial.report_accuracy_drop_ci,
        trial.seconds.get("quantize"), trial.seconds.get("train"), point.calibration_images,
        None if curve is None else curve.images, epochs, trial.size_bytes,
        trial.size_bytes / base if trial.size_bytes and base else None,
        "; ".join(note for note in notes if note),
    )  # fmt: skip


def tabulate_losses(rows: Sequence[LossRow]) -> list[list[str]]:
    """Cells of a table; see `LOSS_COLUMNS`."""
    return [
        [
            describe_weights(row.weight_bits, row.granularity),
            row.method,
            format_drop(row.accuracy_drop, row.accuracy_drop_ci),
            format_drop(row.report_accuracy_drop, row.report_accuracy_drop_ci),
            describe_seconds(row.quantize_seconds),
            describe_seconds(row.train_seconds),
            "-" if row.calibration_images is None else f"{row.calibration_images:,}",
            _describe_training_images(row),
            "-" if row.size_bytes is None else format_megabytes(row.size_bytes),
            "-" if row.size_ratio is None else f"{row.size_ratio:.3f}",
            row.note if row.trial is not None else "not measured",
        ]
        for row in rows
    ]


def describe_seconds(seconds: float | None) -> str:
    """`0.4 s`, `42 s`, `5.2 min`; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min"


def _describe_training_images(row: LossRow) -> str:
    if row.training_images is None:
        return "-"
    return f"{row.training_images:,} x {row.epochs}"
