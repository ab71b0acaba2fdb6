"""What people read about measurements."""

import pytest

from autoquant.cli.running import _describe_failures, _describe_nearest_miss
from autoquant.core.pareto import Bounds
from autoquant.core.trial import Partial
from autoquant.report import describe_drift, describe_trade
from tests.trials import make_trial, right


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(0.96, "4% faster"), (1.05, "5% slower"), (0.5, "2x faster"), (0.9, "1.1x faster"),
     (3.2, "3.2x slower"), (1.001, "as fast as float")],
)  # fmt: skip
def test_a_speed_reads_as_what_it_is(ratio: float, words: str) -> None:
    assert words in describe_trade(make_trial(1, right(900), ratio), make_trial(0, right(900)))


def test_where_every_trial_failed_the_reason_is_said() -> None:
    failed = [
        make_trial(number, right(900)).model_copy(update={"state": "failed", "error": reason})
        for number, reason in enumerate(["no memory", "the metric is nan", "the metric is nan"])
    ]
    text = _describe_nearest_miss(failed, Bounds())
    assert text == "no trial is complete: 3 failed, 2 of them with: the metric is nan"
    assert _describe_failures([]) == "no trial is complete yet"


def test_a_probability_of_zero_is_shown() -> None:
    trial = make_trial(0, right(900)).model_copy(update={"front_probability": 0.0})
    assert trial.to_dict()["front_probability"] == 0.0
    assert "knee" not in trial.to_dict()


def test_drift_is_seen_in_rejected_trials_too() -> None:
    seen = Partial(
        reason="dominated", samples=1, of_samples=2, accuracy=0.5, accuracy_drop=0.1,
        reference_ms=1.1,
    )  # fmt: skip
    rejected = make_trial(2, right(1)).model_copy(
        update={"state": "rejected", "partial": seen, "timing": None}
    )
    text = describe_drift([make_trial(0, right(900)), make_trial(1, right(900)), rejected])
    assert text == "float reference 1 ms, +0.0% to +10.0% over the study"
