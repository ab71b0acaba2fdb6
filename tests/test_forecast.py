"""How long a search has still to go."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from autoquant.core.forecast import Cost, Forecast, forecast_closing, forecast_rest, forecast_search
from autoquant.progress import SearchProgress
from autoquant.search.study import Budget, Event
from tests.benchmarks.forecast import replay
from tests.journals import measured_trials

RECORDED = sorted(
    (Path(__file__).parents[1] / "results/published/search-benchmark/forecast").glob("*.json")
)
# The machine stood still for twelve minutes of that one, in three spells, and grew busier.
STOOD_STILL = ("cifar10-resnet20",)
BASELINES = ("fp32", "w8a8", "w4a8", "ort-static", "ort-dynamic")


def baselines(dynamic_s: float = 30.0) -> list[Cost]:
    """Dearer than what comes after them; one runs in slow kernels."""
    costs = []
    for name in BASELINES:
        quantize = {"w8a8": 4.0, "w4a8": 1.5}.get(name, 0.0)
        work = {"quantize": quantize, "accuracy": 1.0, "latency": 1.0}
        if name == "ort-dynamic":
            work["accuracy"] = dynamic_s
        costs.append(Cost(work, sum(work.values()) + 0.1, name))
    return costs


def proposals(count: int, seed: int = 0, workers: int = 1) -> list[Cost]:
    """The first ones fill caches and are all on the front; of the others, some are turned away."""
    generator = np.random.default_rng(seed)
    costs = []
    for index in range(count):
        is_full = index < 4 or bool(generator.random() > 0.4)
        work = {"quantize": 3.0 / (1 + index / 3), "accuracy": 1.0, "latency": 1.0 * is_full}
        scale = generator.uniform(0.8, 1.2) * (1.0 if is_full else 0.4)
        work = {stage: seconds * scale for stage, seconds in work.items()}
        costs.append(Cost(work, (sum(work.values()) + 0.1) / workers, None, False, is_full))
    return costs


def seconds_of(costs: list[Cost]) -> float:
    return sum(cost.wall_s or 0.0 for cost in costs)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("done", [5, 10, 30])
def test_baselines_and_cheap_rejections_do_not_mislead(done: int, workers: int) -> None:
    rest = proposals(55, workers=workers)
    begun = baselines()
    if workers > 1:
        begun = [Cost(cost.work, (cost.wall_s or 0.0) / workers, cost.name) for cost in begun]
    every = [*begun, *rest]
    found = forecast_rest(every[:done], len(every), front=0)
    closing = forecast_rest(every, len(every), front=0)
    assert found is not None
    assert closing is not None
    left = seconds_of(every[done:]) + closing.seconds
    assert found.seconds == pytest.approx(left, rel=0.3)
    assert found.low < left < found.high


def test_nothing_is_foretold_before_anything_like_a_trial_was_built() -> None:
    assert forecast_rest([], 40, front=0) is None
    assert forecast_rest(baselines()[:1], 40, front=0) is None
    assert forecast_rest(baselines()[:2], 40, front=0) is not None


def test_the_closing_counts_members_and_second_looks() -> None:
    full = [*baselines(), *proposals(35)]
    few = forecast_rest(full, 40, front=3)
    many = forecast_rest(full, 40, front=12)
    assert few.seconds > 5, "all trials are done, and the front is still to be timed and reported"
    assert many.seconds > few.seconds + 9 * 1.5
    away = sum(not cost.is_full for cost in full)
    none_away = [cost for cost in full if cost.is_full]
    without = forecast_rest(none_away, len(none_away), front=3).seconds
    assert few.seconds - without > 0.2 * away * 2, "a full trial takes more than two seconds"


def test_trainings_cost_what_the_last_ones_did() -> None:
    begun = [*baselines(), *proposals(10)]
    trained = [Cost({"train": 60.0}, 60.0, None, True), Cost({"latency": 1.0}, 1.0)] * 3
    found = forecast_rest([*begun, *trained], 31, front=0)
    assert found.seconds == pytest.approx(5 * 61, rel=0.3)
    unknown = forecast_rest(begun, 31, front=0, may_train=True)
    assert unknown.high > 1.6 * unknown.seconds, "trainings may take as long as all else"


def test_the_time_limit_ends_the_forecast() -> None:
    costs = [*baselines(), *proposals(10)]
    free = forecast_rest(costs, 400, front=3)
    held = forecast_rest(costs, 400, front=3, timeout_left_s=60.0)
    assert free.seconds > 300
    assert held.seconds == pytest.approx(60), "the closing is within the limit"
    late = forecast_rest(costs, 400, front=3, timeout_left_s=1.0)
    assert late.seconds == pytest.approx(forecast_closing(costs, front=3).seconds, rel=0.1)


def test_another_study_of_the_task_tells_of_a_whole_search() -> None:
    before = [*baselines(), *proposals(35)]
    found = forecast_search(before, 40)
    closing = forecast_rest(before, 40, front=0)
    assert found.seconds == pytest.approx(seconds_of(before) + closing.seconds, rel=0.3)
    assert forecast_search(before, 80).seconds > found.seconds + 0.7 * seconds_of(proposals(35))
    assert forecast_search([], 40) is None


def test_a_trial_that_failed_took_its_time() -> None:
    begun = [*baselines(), *proposals(10)]
    broken = [Cost({}, 3.0)] * 10
    found = forecast_rest([*begun, *broken], 50, front=0)
    cheap = [Cost({"latency": 0.1}, 0.1, is_full=False)] * 10
    assert found.seconds > 1.3 * forecast_rest([*begun, *cheap], 50, front=0).seconds


def test_a_spell_in_which_the_machine_stood_still_is_not_expected_again() -> None:
    begun = [*baselines(), *proposals(10)]
    still = [Cost({"accuracy": 300.0}, 300.0)]
    usual = forecast_rest([*begun, Cost({"accuracy": 2.0}, 2.0)], 40, front=0).seconds
    assert forecast_rest([*begun, *still], 40, front=0).seconds < 1.4 * usual


def test_work_without_seconds_is_no_division_by_zero() -> None:
    found = forecast_rest([Cost({}, 1.0, "w8a8"), Cost({}, 1.0)], 10, front=0)
    assert found.seconds >= 0


def test_words_give_two_figures_where_one_would_pretend() -> None:
    assert Forecast(260, 240, 280).describe() == "4:20"
    assert Forecast(330, 240, 420).describe() == "4 to 7 min"
    assert Forecast(60, 40, 80).describe() == "0:40 to 1:20"
    assert Forecast(60, 40, 80).after(55) == Forecast(5, 0, 25)


@pytest.mark.parametrize(
    "path", [path for path in RECORDED if path.stem not in STOOD_STILL], ids=lambda path: path.stem
)
def test_recorded_searches_are_foretold_within_thirty_percent(path: Path) -> None:
    recording = json.loads(path.read_text())
    steps = {done: (found, left) for done, found, _, left in replay(recording)}
    for done in (5, max(6, round(recording["target"] / 4))):
        found, left = steps[done]
        assert abs(found.seconds / left - 1) < 0.3, (path.stem, done, found, left)


def test_searches_were_recorded() -> None:
    assert len(RECORDED) >= 3


def test_terminal_counts_down_and_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("autoquant.progress.time.monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    trials = measured_trials(5)
    shown = []
    with SearchProgress(Budget(40), console) as progress:
        for number, trial in enumerate(trials, start=1):
            clock[0] += 1.0
            progress.show(Event("end", number, (), trial))
            shown.append(progress.progress.tasks[0].fields["status"])
        assert "left" not in shown[0], "the float model tells nothing"
        assert "about 0:" in shown[-1]
        first = progress.forecast.seconds
        clock[0] += 10.0
        progress.show(Event("begin", 5, (), None, "next"))
        assert progress._forecast(Event("begin", 5, ())) == progress.forecast.after(10).describe()
        clock[0] += 10 * first
        progress.show(Event("begin", 5, (), None, "next"))
        assert "left" not in progress.progress.tasks[0].fields["status"]


def test_a_search_that_goes_on_knows_its_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoquant.progress.time.monotonic", lambda: 0.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    trials = measured_trials(20)
    with SearchProgress(Budget(40), console, trials) as progress:
        progress.show(Event("begin", 20, (), None, "next"))
        assert "about" in progress.progress.tasks[0].fields["status"], "before the first trial"
        whole = forecast_rest([Cost.of(trial) for trial in trials], 40, front=0)
        assert progress.forecast == whole
    with SearchProgress(Budget(21), console, trials) as progress:
        progress.show(Event("begin", 20, (), None, "next"))
        assert progress.forecast.seconds < whole.seconds / 2
