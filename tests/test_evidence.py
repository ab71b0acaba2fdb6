import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest

from autoquant.core.evidence import DRAWS, Evidence, mcnemar_z, resample_counts
from autoquant.core.metric import (
    accuracy_interval,
    drop_interval,
    find_evidence,
    measure_accuracy,
    wilson_interval,
)

hit_arrays = arrays(np.bool_, st.integers(1, 300))


@given(hit_arrays)
def test_hits_come_back(hits: np.ndarray) -> None:
    evidence = Evidence.model_validate_json(Evidence.from_hits(hits).model_dump_json())
    assert (evidence.hits == hits).all()
    assert evidence.draws.shape == (DRAWS,)


@given(hit_arrays)
def test_draws_of_hits_are_those_of_resampling_them(hits: np.ndarray) -> None:
    counts = resample_counts(len(hits))
    assert (counts.sum(axis=1) == len(hits)).all()
    slow = [np.repeat(hits, row.astype(int)).mean() for row in counts[:5]]
    assert np.allclose(Evidence.from_hits(hits).draws[:5], slow, atol=1e-6)


def test_draws_come_back() -> None:
    draws = np.random.default_rng(0).random(DRAWS).astype(np.float32)
    evidence = Evidence.from_draws(draws, 50)
    assert evidence.hits is None
    assert (evidence.draws == draws).all()


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_antisymmetric_and_bounded_by_the_exact_test(ours: int, theirs: int) -> None:
    z = float(mcnemar_z(ours, theirs))
    assert z == -float(mcnemar_z(theirs, ours))
    if abs(z) > 2.3:  # clearly significant here is significant by the exact binomial test
        assert binomtest(ours, ours + theirs).pvalue < 0.05


def outputs_of(hits: np.ndarray) -> np.ndarray:
    return np.stack([~hits, hits], axis=1).astype(np.float32)


def test_drop_interval_is_paired() -> None:
    """Ten images lost of the same: the interval is far narrower than two of Wilson."""
    base = np.arange(1000) < 900
    ours = base & (np.arange(1000) >= 10)
    targets = np.ones(1000, dtype=int)
    found = [find_evidence("top1", outputs_of(h), targets, outputs_of(base)) for h in (base, ours)]
    low, high = drop_interval(*found, drop=0.01)
    assert 0 < low < 0.01 < high < 0.02
    assert high - low < 0.5 * np.ptp(wilson_interval(0.89, 1000))


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("samples", [1, 20, 1000])
def test_drop_interval_is_honest_at_its_edges(lost: int, samples: int) -> None:
    """No image on which two models differ, or one image alone, is no proof."""
    base = Evidence.from_hits(np.ones(samples, dtype=bool))
    ours = Evidence.from_hits(np.arange(samples) >= lost)
    low, high = drop_interval(base, ours, lost / samples)
    assert -1 <= low < lost / samples <= high <= 1
    assert low < 0, "what one image says is within chance"
    assert high - low > 1 / samples


@given(hit_arrays, st.randoms(use_true_random=False))
def test_drop_interval_contains_the_drop_and_turns_with_it(hits: np.ndarray, random) -> None:
    ours = np.array([random.random() < 0.5 for _ in hits])
    one, other = Evidence.from_hits(hits), Evidence.from_hits(ours)
    drop = float(hits.mean() - ours.mean())
    low, high = drop_interval(one, other, drop)
    assert low <= drop <= high
    assert drop_interval(other, one, -drop) == pytest.approx((-high, -low))


def test_own_metric_gets_an_interval_by_resampling() -> None:
    generator = np.random.default_rng(0)
    targets = generator.normal(size=300)
    outputs = (targets + generator.normal(size=300))[:, None].astype(np.float32)

    def correlation(found: np.ndarray, wanted: np.ndarray) -> float:
        return float(np.corrcoef(found[:, 0], wanted)[0, 1])

    value = measure_accuracy(correlation, outputs, targets, outputs)
    low, high = accuracy_interval(value, find_evidence(correlation, outputs, targets, outputs))
    assert low < value < high
    assert high - low == pytest.approx(4 * (1 - value**2) / np.sqrt(300), rel=0.3)


def test_a_metric_that_is_undefined_on_some_resample_still_has_an_interval() -> None:
    def fragile(found: np.ndarray, wanted: np.ndarray) -> float:
        return float("nan") if wanted.min() > 0 else float(found.mean())

    targets = np.arange(5)
    outputs = np.linspace(0, 1, 5, dtype=np.float32)[:, None]
    evidence = find_evidence(fragile, outputs, targets, outputs)
    assert np.isfinite(evidence.draws).all()


@pytest.mark.parametrize("samples", [1, 2])
def test_tiny_splits_have_evidence(samples: int) -> None:
    targets = np.ones(samples, dtype=int)
    outputs = outputs_of(np.ones(samples, dtype=bool))
    evidence = find_evidence("top1", outputs, targets, outputs)
    low, high = accuracy_interval(1.0, evidence)
    assert 0 < low < high <= 1.0
