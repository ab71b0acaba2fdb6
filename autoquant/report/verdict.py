"""What the accuracy-loss study finds, width by width: the figures behind the advice.

A difference is one only if its paired 95 % interval on the search split leaves out zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autoquant.core.analysis import METHODS
from autoquant.core.gain import Gain, find_gain
from autoquant.core.recipe import WeightBits
from autoquant.core.trial import Trial
from autoquant.report.grid import LossPoint, is_main
from autoquant.report.training_curve import first_accuracy, trace_curve

__all__ = ["ImageNeed", "Verdict", "find_verdicts"]


@dataclass(frozen=True)
class ImageNeed:
    """How many calibration images a method needs.

    Attributes:
        method: how the weights came onto their grid.
        enough: the fewest that no larger number beats beyond chance.
        fewest: that were tried, and the `most`.
    """

    method: str
    enough: int
    fewest: int
    most: int


@dataclass(frozen=True)
class Verdict:
    """What was found at one width.

    Attributes:
        weight_bits: of every layer.
        plain: the cheapest untrained cell that no other untrained one beats beyond chance.
        loss: of `plain` against float; None where the record cannot tell.
        simpler: the nearest cheaper method of the same granularity, which `plain` beats.
        trained: the best trained cell; None if none is complete.
        gain: of `trained` over `plain`; None where there is none, or the record cannot tell.
        passed_after_min: minutes of training after which the model in training was first above
            `plain`, a proxy; None if it never was, or nobody looked.
        failed: trained cells that have no figures.
        needs: of calibration images, by method.
    """

    weight_bits: WeightBits
    plain: LossPoint | None
    loss: Gain | None
    simpler: LossPoint | None
    trained: LossPoint | None
    gain: Gain | None
    passed_after_min: float | None
    failed: tuple[LossPoint, ...]
    needs: tuple[ImageNeed, ...]


def find_verdicts(points: Sequence[LossPoint]) -> list[Verdict]:
    """One verdict for each width of which there is a cell, wider first; points in their order."""
    widths = list(dict.fromkeys(point.cell.weight_bits for point in points))
    return [_judge([p for p in points if p.cell.weight_bits == bits]) for bits in widths]


def _judge(points: Sequence[LossPoint]) -> Verdict:
    main = [point for point in points if is_main(point)]
    complete = [point for point in main if point.is_complete]
    untrained = [point for point in complete if point.cell.training is None]
    plain = _find_cheapest(untrained)
    trained = _find_cheapest([point for point in complete if point.cell.training is not None])
    return Verdict(
        points[0].cell.weight_bits,
        plain,
        None if plain is None else _find_loss(plain.trial),
        None if plain is None else _find_simpler(plain, untrained),
        trained,
        None if plain is None or trained is None else find_gain(trained.trial, plain.trial),
        _find_passing(trained, plain),
        tuple(p for p in main if p.cell.training is not None and not p.is_complete),
        tuple(_find_needs(points)),
    )


def _find_loss(trial: Trial) -> Gain | None:
    """Over the float model, so a loss is negative; as the trial was measured."""
    if trial.accuracy_drop is None or trial.accuracy_drop_ci is None:
        return None
    low, high = trial.accuracy_drop_ci
    return Gain(-trial.accuracy_drop, -high, -low)


def _find_cheapest(points: Sequence[LossPoint]) -> LossPoint | None:
    """The first in order of effort that no other beats beyond chance.

    Where the record cannot tell, the point estimates decide.
    """
    order = sorted(points, key=_effort)
    return next(
        (point for point in order if not any(_beats(other, point) for other in points)), None
    )


def _effort(point: LossPoint) -> tuple[int, int, float, int]:
    """Methods cost more in their order; of equal ones the more accurate comes first."""
    cell = point.cell
    epochs = 0 if cell.training is None else cell.training.epochs
    return METHODS.index(cell.method), epochs, -(point.trial.accuracy or 0.0), point.trial.number


def _beats(one: LossPoint, other: LossPoint) -> bool:
    gain = find_gain(one.trial, other.trial)
    if gain is None:
        return (one.trial.accuracy or 0.0) > (other.trial.accuracy or 0.0)
    return gain.is_better


def _surely_beats(one: LossPoint, other: LossPoint) -> bool:
    gain = find_gain(one.trial, other.trial)
    return gain is not None and gain.is_better


def _find_simpler(plain: LossPoint, untrained: Sequence[LossPoint]) -> LossPoint | None:
    place = METHODS.index(plain.cell.method)
    below = [
        point
        for point in untrained
        if point.cell.granularity == plain.cell.granularity
        and METHODS.index(point.cell.method) < place
        and _surely_beats(plain, point)
    ]
    return max(below, key=lambda point: METHODS.index(point.cell.method), default=None)


def _find_passing(trained: LossPoint | None, plain: LossPoint | None) -> float | None:
    if trained is None or plain is None:
        return None
    level = first_accuracy(plain.trial)
    if level is None:
        return None
    curve = trace_curve(trained.trial)
    return next((minutes for minutes, accuracy in curve if accuracy > level), None)


def _find_needs(points: Sequence[LossPoint]) -> list[ImageNeed]:
    needs = []
    for method in METHODS:
        line = [
            point
            for point in points
            if point.cell.method == method
            and point.cell.granularity == "per_channel"
            and point.cell.training is None
            and point.is_complete
            and point.trial.evidence is not None
        ]
        line.sort(key=lambda point: point.cell.calibration_images)
        counts = [point.calibration_images for point in line]
        if len(counts) < 2:
            continue
        enough = next(
            count
            for index, count in enumerate(counts)
            if not any(_surely_beats(later, line[index]) for later in line[index + 1 :])
        )
        needs.append(ImageNeed(method, enough, counts[0], counts[-1]))
    return needs
