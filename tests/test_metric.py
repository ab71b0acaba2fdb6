import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoquant.core.metric import agreement, measure_accuracy, top_k_hits, wilson_interval
from autoquant.errors import TrialError

OUTPUTS = np.array([[0.1, 0.9, 0.0], [0.8, 0.15, 0.05], [0.2, 0.3, 0.5]], dtype=np.float32)
TARGETS = np.array([1, 1, 2])


def test_top_k_hits_counts_hits() -> None:
    assert top_k_hits(OUTPUTS, TARGETS, 1).mean() == pytest.approx(2 / 3)
    assert top_k_hits(OUTPUTS, TARGETS, 2).all()
    assert top_k_hits(OUTPUTS, TARGETS, 5).all()


def test_agreement_compares_classes() -> None:
    assert agreement(OUTPUTS, OUTPUTS * 3) == 1.0
    assert agreement(OUTPUTS, OUTPUTS[:, ::-1]) == pytest.approx(1 / 3)


def test_agreement_metric_is_against_the_float_model() -> None:
    assert measure_accuracy("agreement", OUTPUTS, TARGETS, OUTPUTS) == 1.0


def test_own_metric_is_called_with_the_whole_split() -> None:
    seen = []

    def metric(outputs: np.ndarray, targets: np.ndarray) -> float:
        seen.append((outputs.shape, targets.shape))
        return -0.5

    assert measure_accuracy(metric, OUTPUTS, TARGETS, OUTPUTS) == -0.5
    assert seen == [((3, 3), (3,))]


def test_a_metric_that_is_no_number_fails_the_trial() -> None:
    with pytest.raises(TrialError, match="finite"):
        measure_accuracy(lambda outputs, targets: float("nan"), OUTPUTS, TARGETS, OUTPUTS)
    with pytest.raises(TrialError, match="top1, top5, agreement"):
        measure_accuracy("top3", OUTPUTS, TARGETS, OUTPUTS)  # type: ignore[arg-type]


@given(st.integers(0, 50), st.integers(50, 10_000))
def test_wilson_interval_contains_the_share(successes: int, n: int) -> None:
    low, high = wilson_interval(successes / n, n)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1


def test_wilson_interval_of_a_known_case() -> None:
    # 10 of 100: Brown, Cai and DasGupta 2001, doi:10.1214/ss/1009213286, give 0.055 to 0.174
    low, high = wilson_interval(0.1, 100)
    assert (round(low, 3), round(high, 3)) == (0.055, 0.174)
