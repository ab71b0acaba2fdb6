"""What people read about measurements."""

import pytest

from autoquant.cli.running import _describe_failures, _describe_nearest_miss
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Partial, Trial
from autoquant.report import (
    describe_drift,
    describe_report_gap,
    describe_saturation,
    describe_trade,
)
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


@pytest.mark.parametrize(("more", "word"), [(0.0035, "0.35 points more"), (0.0005, None)])
def test_what_members_lose_more_on_the_report_split_is_said(more: float, word: str | None) -> None:
    members = [
        trial.model_copy(update={"report_accuracy_drop": (trial.accuracy_drop or 0.0) + more})
        for trial in (make_trial(number, right(890 + number)) for number in range(3))
    ]
    found = describe_report_gap(members)
    assert found is None if word is None else word in (found or "")
    assert describe_report_gap(members[:2]) is None, "too few to tell"
    assert describe_report_gap([make_trial(9, right(900))] * 3) is None, "never reported"


def named(name: str, hits: int) -> Trial:
    trial = make_trial(0, right(hits))
    return trial.model_copy(update={"name": name})


@pytest.mark.parametrize(
    ("full", "reduced"), [("w8a8", "w8a8-reduced"), ("w8a8-full", "w8a8")], ids=["asked", "here"]
)
def test_what_saturated_sums_cost_is_said(full: str, reduced: str) -> None:
    text = describe_saturation([named(full, 700), named(reduced, 900)])
    assert text is not None
    assert f"{full} 70.00%, with 7-bit weights 90.00% ({reduced}; reduce_range" in text
    assert describe_saturation([named(full, 899), named(reduced, 900)]) is None
    assert describe_saturation([named(full, 899)]) is None


def test_a_file_that_saturated_sums_made_fail_is_named() -> None:
    failed = Trial(
        number=1, state="failed", digest="d", recipe=Recipe(method="fp32"), name="w8a8-full",
        seed=0, error="the exported file disagrees",
    )  # fmt: skip
    text = describe_saturation([failed, named("w8a8", 900)])
    assert text is not None
    assert "w8a8-full failed (the exported file disagrees), with 7-bit weights 90.00%" in text
