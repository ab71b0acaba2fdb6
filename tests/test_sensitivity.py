import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoquant.core.sensitivity import ChoiceCost, Sensitivity, SensitivityBase
from autoquant.errors import TrialError
from autoquant.evaluate import EvaluationOptions
from autoquant.report.sensitivity import describe_base, sensitivity_figure, tabulate_sensitivity
from autoquant.sensitivity import measure_sensitivity
from tests.fakes import fake_evaluator

LAYERS = [f"conv{index}" for index in range(8)]


def measure(folder: Path, **options):
    return measure_sensitivity(fake_evaluator(), "fake", folder, **options)


def test_every_layer_is_measured_at_every_choice_in_order(tmp_path: Path) -> None:
    found, refusal = measure(tmp_path)
    assert refusal is None
    assert [(cost.layer, cost.choice) for cost in found.costs] == [
        (name, choice) for name in LAYERS for choice in ("4", "float")
    ]
    fours = [found.by_choice[name, "4"] for name in LAYERS]
    assert fours[0].extra_drop > fours[1].extra_drop > fours[7].extra_drop >= 0
    assert all(cost.latency_change == 0.0 for cost in fours), "the same kernels run"
    assert all(found.by_choice[name, "float"].latency_change > 0 for name in LAYERS)
    assert [cost.bytes_saved for cost in fours] == [500 * (index + 1) for index in range(8)]


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    first, _ = measure(tmp_path)
    again, refusal = measure(tmp_path)
    assert (again, refusal) == (first, None)
    fresh, _ = measure(tmp_path, fresh=True)
    assert fresh.costs == first.costs


def test_measurement_of_other_weights_is_refused(tmp_path: Path) -> None:
    measure(tmp_path)
    path = tmp_path / "fake-fake.json"
    kept = json.loads(path.read_text())
    kept["key"]["weights_sha256"] = "others"
    path.write_text(json.dumps(kept))
    found, refusal = measure(tmp_path)
    assert refusal == "what was kept is of other weights"
    assert len(found.costs) == 16
    assert measure(tmp_path)[1] is None


@pytest.mark.parametrize("changed", ["threads", "batch"])
def test_measurement_under_other_conditions_is_refused(tmp_path: Path, changed: str) -> None:
    measure(tmp_path)
    evaluator = fake_evaluator()
    given = {"latency": evaluator.options.latency, changed: 2}
    evaluator.options = EvaluationOptions(**given)
    _, refusal = measure_sensitivity(evaluator, "fake", tmp_path)
    assert refusal == f"what was kept is of other {changed}"


def test_damaged_measurement_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fake-fake.json").write_text('{"version": 1, "ta')
    found, refusal = measure(tmp_path)
    assert refusal == "what was kept is damaged"
    assert len(found.costs) == 16


def test_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    evaluator, seen = fake_evaluator(), []
    build = evaluator.builder.build

    def count(recipe, watch=None):
        seen.append(recipe)
        if len(seen) == 9:
            raise KeyboardInterrupt
        return build(recipe, watch)

    evaluator.builder.build = count
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(evaluator, "fake", tmp_path)
    costs = Sensitivity.model_validate_json((tmp_path / "fake-fake.json").read_text()).costs
    kept = sum(cost.error is None for cost in costs)
    assert kept > 2
    seen[:] = [None] * 10
    found, _ = measure_sensitivity(evaluator, "fake", tmp_path)
    assert len(found.costs) == 16
    # the rest, and what each sitting needs for itself: float twice, 8 bits
    assert len(seen) - 10 <= 16 - kept + 3


@pytest.mark.parametrize("is_killed", [True, False])
def test_choice_on_which_the_process_dies_twice_is_left_out(
    tmp_path: Path, *, is_killed: bool
) -> None:
    """Ctrl-C at a choice is no death: it is measured the next time."""
    path = tmp_path / "fake-fake.json"
    for _ in range(2):
        evaluator, left = fake_evaluator(), []
        build = evaluator.builder.build

        def die(recipe, watch=None, build=build, left=left):
            if recipe.layers.get("conv0") == 4:
                left.append(path.read_bytes())
                raise KeyboardInterrupt
            return build(recipe, watch)

        evaluator.builder.build = die
        with contextlib.suppress(KeyboardInterrupt):
            measure_sensitivity(evaluator, "fake", tmp_path)
        if is_killed:  # a process that is killed writes nothing after that
            path.write_bytes(left[0])
    found, _ = measure_sensitivity(fake_evaluator(), "fake", tmp_path)
    assert len(found.costs) == 16
    reason = "the process ended while it was measured, twice"
    assert found.costs[0].error == (reason if is_killed else None)


def test_no_file_is_begun_after_the_time_is_up(tmp_path: Path) -> None:
    found, _ = measure(tmp_path, timeout_s=-1.0)
    assert found.costs == ()
    assert found.base.accuracy > 0.9


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrialError("a scale is not finite"), "a scale is not finite"),
        (MemoryError("4 GB"), "MemoryError: 4 GB"),
    ],
)
def test_choice_that_fails_is_recorded_with_its_reason(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    evaluator = fake_evaluator()
    build = evaluator.builder.build

    def refuse(recipe, watch=None):
        if recipe.layers.get("conv1") == 4:
            raise error
        return build(recipe, watch)

    evaluator.builder.build = refuse
    found, _ = measure_sensitivity(evaluator, "fake", tmp_path)
    failed = [cost for cost in found.costs if cost.error]
    assert [(cost.layer, cost.error) for cost in failed] == [("conv1", reason)]
    assert found.expected_drop("conv1", "4") is None
    assert tabulate_sensitivity(found)[2][-1] == reason


def make_sensitivity(*pairs: tuple[float, float]) -> Sensitivity:
    """Of layers with these proxies and drops."""
    costs = [
        ChoiceCost(layer=f"conv{i}", choice="4", proxy=proxy, extra_drop=drop, bytes_saved=1,
                   extra_drop_ci=(drop - 0.002, drop + 0.002))
        for i, (proxy, drop) in enumerate(pairs)
    ]  # fmt: skip
    base = SensitivityBase(accuracy=0.9, accuracy_drop=0.0, proxy=0.01, size_bytes=1000)
    return Sensitivity(
        task="x", key={}, samples=1000, reduce_range=False, proxy="kl", base=base, costs=costs
    )


def test_expected_drop_follows_the_proxy_and_not_single_images() -> None:
    found = make_sensitivity((0.01, 0.003), (0.02, 0.001), (0.1, 0.01))
    expected = [found.expected_drop(f"conv{i}", "4") for i in range(3)]
    assert expected[2] == pytest.approx(10 * expected[0])
    assert sum(expected) == pytest.approx(0.014, rel=0.2)


def test_no_drop_at_all_is_no_promise_of_none() -> None:
    found = make_sensitivity((0.01, 0.0), (0.1, 0.0))
    assert 0 < found.expected_drop("conv0", "4") < found.expected_drop("conv1", "4") < 0.002


def test_figure_shows_every_layer_in_four_panels(tmp_path: Path) -> None:
    found, _ = measure(tmp_path)
    figure = sensitivity_figure(found, "title")
    assert {len(trace.x) for trace in figure.data} == {8}
    assert {trace.yaxis for trace in figure.data} == {"y", "y2", "y3", "y4"}
    assert "The proxy is the KL divergence" in describe_base(found)


@pytest.mark.long
def test_command_prints_json_and_draws(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "autoquant", "sensitivity", "digits"]
    result = subprocess.run(
        [*command, "--format", "json", "-o", str(page)], capture_output=True, text=True, check=True
    )
    document = json.loads(result.stdout)
    assert len(document["costs"]) == 14
    assert {"layer", "choice", "extra_drop", "proxy", "bytes_saved", "latency_change"} <= set(
        document["costs"][0]
    )
    assert page.stat().st_size > 10_000
    refused = subprocess.run(
        [*command, "-o", str(tmp_path / "page.txt")], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "a plot is a .html or a .png file" in refused.stderr
