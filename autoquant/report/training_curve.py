"""What a training curve says of accuracy, and what to hold it against."""

from autoquant.core.rehearsal import REHEARSED_SAMPLES
from autoquant.core.trial import Trial

__all__ = ["TracedCurve", "first_accuracy", "trace_curve"]

TracedCurve = list[tuple[float, float]]  # (minutes, accuracy in percent)


def first_accuracy(trial: Trial) -> float | None:
    """Of a finished file on the images that a training is watched on, percent.

    None for a metric that says nothing on single images.
    """
    hits = None if trial.evidence is None else trial.evidence.hits
    return None if hits is None else float(hits[:REHEARSED_SAMPLES].mean()) * 100


def trace_curve(trial: Trial) -> TracedCurve:
    """Accuracy of a model in training by minutes, (minutes, percent).

    The minutes are those of the whole training, spread evenly over its steps.
    """
    curve = trial.training
    if curve is None:
        return []
    minutes = trial.seconds.get("train", 0.0) / 60
    return [
        (minutes * point.step / curve.steps, point.accuracy * 100)
        for point in curve.points
        if point.accuracy is not None
    ]
