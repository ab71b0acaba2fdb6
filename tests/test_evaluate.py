"""What the evaluator refuses to give figures for."""

import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest

from autoquant.backends.fake import FakeBackend, FakeBuilder, FakeData
from autoquant.backends.latency import PROTOCOL_VERSION, LatencyProtocol
from autoquant.backends.onnxruntime import OrtBackend, OrtSession
from autoquant.backends.quiet import QuietPlace
from autoquant.build import build_evaluator
from autoquant.core.artifact import Artifact, Candidate
from autoquant.core.gate import Gate
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.errors import ParityError, Rejection, TrialError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.export.qdq import _Writer, write_qdq
from autoquant.export.readback import read_precisions
from tests.fakes import QUICK
from tests.networks import Data, Residual, make_task
from tests.trials import make_trial

LAYERS = ["stem", "body", "down", "fc"]


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return build_evaluator(make_task(Residual), options=EvaluationOptions(latency=None))


def test_a_file_that_disagrees_with_the_brevitas_model_fails(evaluator: Evaluator) -> None:
    """A file whose classifier has its biases in the wrong order."""
    honest = evaluator.builder.build(Recipe.uniform(LAYERS, 8))
    encodings = evaluator.builder.quantizer.quantize(Recipe.uniform(LAYERS, 8)).encodings
    wrong = dict(encodings.weights)
    wrong["fc"] = dataclasses.replace(wrong["fc"], bias=wrong["fc"].bias[::-1].copy())
    model = write_qdq(
        evaluator.builder.exporter.graph, dataclasses.replace(encodings, weights=wrong)
    )
    swapped = Artifact(model.SerializeToString(), read_precisions(model), {})
    evaluator.measure(honest)
    with pytest.raises(ParityError, match=r"top-1 agreement 0\.\d+ on 128 samples, below 0.98"):
        evaluator.measure(dataclasses.replace(honest, artifact=swapped))


def swap_best_two(outputs):
    """Another class, while the values hardly change."""
    best = np.argsort(outputs, axis=1)[:, -2:]
    rows = np.arange(len(outputs))[:, None]
    outputs[rows, best] = outputs[rows, best[:, ::-1]]


def triple(outputs):
    """The same class, other values."""
    outputs *= 3


@pytest.mark.parametrize(("spoil", "asked"), [(swap_best_two, 192), (triple, 96)])
def test_parity_asks_for_more_where_few_samples_leave_a_doubt(spoil, asked: int) -> None:
    """Of 256 samples the 20th and the 21st differ, in their classes or in their values alone."""
    task = make_task(Residual, search=Data(256, seed=1), metric="agreement")
    options = EvaluationOptions(latency=None, parity_macs=1.0)
    evaluator = build_evaluator(task, options=options)
    evaluator.search.batch_size = 16
    candidate = evaluator.builder.build(Recipe.uniform(LAYERS, 8))
    seen = []

    def predict(batches):
        outputs = candidate.predict(batches)
        if not seen:
            spoil(outputs[20:22])
        seen.append(len(outputs))
        return outputs

    measurement, _ = evaluator.measure(dataclasses.replace(candidate, predict=predict))
    assert seen[0] == 32
    assert measurement.parity.samples == asked
    assert sum(seen) == asked, "no sample is asked twice"


def test_a_float_layer_that_the_runtime_quantizes_fails(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the writer's counter-measure the runtime does it, and it is found out."""
    recipe = Recipe.quantized({"stem": 8, "body": None, "down": 8, "fc": 8})
    assert evaluator.evaluate(recipe)[0].float_layers == ("body",)
    monkeypatch.setattr(_Writer, "_keep_float", lambda self, node: [])
    with pytest.raises(TrialError, match="layer 'body' is stored as float but the runtime"):
        evaluator.evaluate(recipe)


def test_same_recipe_same_figures(evaluator: Evaluator) -> None:
    recipe = Recipe.uniform(LAYERS, 4)
    one, other = (evaluator.evaluate(recipe)[0] for _ in range(2))
    same = {"accuracy", "accuracy_drop", "size_bytes", "integer_coverage", "parity"}
    assert one.model_dump(include=same) == other.model_dump(include=same)


def test_drop_is_on_the_same_images_and_a_gain_is_negative() -> None:
    flipped = make_task(Residual, metric=lambda outputs, targets: float(outputs.mean()))
    evaluator = build_evaluator(flipped, options=EvaluationOptions(latency=None))
    base = evaluator.evaluate(Recipe(method="fp32"))[0]
    measured = evaluator.evaluate(Recipe.uniform(LAYERS, 4))[0]
    assert base.accuracy_drop == 0.0
    assert measured.accuracy_drop == pytest.approx(base.accuracy - measured.accuracy)
    low, high = measured.accuracy_ci
    assert low <= measured.accuracy <= high, "a metric of one's own is resampled"


def test_a_metric_that_returns_nan_fails_the_trial() -> None:
    task = make_task(Residual, metric=lambda outputs, targets: float("nan"))
    evaluator = build_evaluator(task, options=EvaluationOptions(latency=None))
    with pytest.raises(TrialError, match="finite"):
        evaluator.evaluate(Recipe.uniform(LAYERS, 8))


def test_batches_do_not_change_the_accuracy(evaluator: Evaluator) -> None:
    other = build_evaluator(make_task(Residual), options=EvaluationOptions(latency=None))
    other.search.batch_size = 7
    recipe = Recipe.uniform(LAYERS, 8)
    assert other.evaluate(recipe)[0].accuracy == evaluator.evaluate(recipe)[0].accuracy


def test_timing_uses_the_batch_that_was_asked_for() -> None:
    options = EvaluationOptions(batch=3)
    evaluator = build_evaluator(make_task(Residual), options=options)
    assert np.shape(evaluator._timed_inputs) == (3, 3, 8, 8)
    measurement, artifact = evaluator.evaluate(Recipe.uniform(LAYERS, 8))
    assert measurement.latency_ratio > 0
    assert artifact.passport["conditions"] == {
        "backend": "onnxruntime",
        "threads": 1,
        "batch": 3,
        "latency_protocol": PROTOCOL_VERSION,
    }


def test_no_report_split_no_report_figures() -> None:
    options = EvaluationOptions(latency=None)
    for report in (None, Data(0)):
        evaluator = build_evaluator(make_task(Residual, report=report), options=options)
        _, artifact = evaluator.evaluate(Recipe.uniform(LAYERS, 8))
        assert evaluator.report(artifact) is None


class Crashing(OrtBackend):
    """The real runtime, whose sessions die in their second timed run."""

    def load(self, artifact: Artifact, threads: int) -> OrtSession:
        session = super().load(artifact, threads)
        runs = iter(range(10**9))
        if "DequantizeLinear" in str(artifact.content):
            once = session.time_once

            def crash(inputs: object) -> float:
                if next(runs) > 0:
                    raise TrialError("ONNX Runtime cannot run it: bad allocation")
                return once(inputs)

            session.time_once = crash
        return session


def test_a_backend_that_crashes_mid_timing_fails_the_trial_alone() -> None:
    task = make_task(Residual)
    builder = build_evaluator(task).builder
    crashing = Evaluator(builder, Crashing(), task.search)
    with pytest.raises(TrialError, match="bad allocation"):
        crashing.evaluate(Recipe.uniform(LAYERS, 8))
    assert crashing.evaluate(Recipe(method="fp32"))[0].latency_ratio is not None


def test_inputs_that_do_not_fit_are_a_trial_error(evaluator: Evaluator) -> None:
    session = evaluator.backend.load(evaluator._float, 1)
    with pytest.raises(TrialError, match="ONNX Runtime cannot run it"):
        session.predict(np.zeros((1, 7), dtype=np.float32))


def test_every_latency_carries_its_intervals_and_percentiles() -> None:
    evaluator = build_evaluator(make_task(Residual))
    found, artifact = evaluator.evaluate(Recipe.uniform(LAYERS, 8))
    for value, (low, high) in (
        (found.latency_ms, found.latency_ms_ci),
        (found.latency_ratio, found.latency_ratio_ci),
        (found.accuracy, found.accuracy_ci),
    ):
        assert low <= value <= high
    assert found.timing.p50_ms <= found.timing.p90_ms <= found.timing.p99_ms
    assert found.timing.samples > 0
    low, high = found.accuracy_drop_ci
    assert low <= found.accuracy_drop <= high
    assert artifact.size_bytes == found.size_bytes, "sealing figures in does not change the size"
    assert "evidence" not in artifact.passport["measurement"]


def test_files_timed_together_share_a_session(evaluator: Evaluator) -> None:
    both = build_evaluator(
        make_task(Residual), options=EvaluationOptions(front_latency=LatencyProtocol(max_s=0.3))
    )
    files = {
        str(bits): both.builder.build(Recipe.uniform(LAYERS, bits)).artifact for bits in (4, 8)
    }
    found = both.time_together(files, "once")
    assert {figures.timing.session for figures in found.values()} == {"once"}
    assert all(figures.peak_memory_bytes > 0 for figures in found.values())
    assert evaluator.time_together(files, "never") == {}, "this one measures no latency"


def test_members_timed_together_get_the_time_that_each_would_get_alone(monkeypatch) -> None:
    taken = []
    patience = LatencyProtocol(slice_s=0.01, min_slices=3, target_width=0.0, max_s=0.1)
    both = build_evaluator(make_task(Residual), options=EvaluationOptions(front_latency=patience))
    race = both.race
    monkeypatch.setattr(both, "race", lambda *given: taken.append(race(*given)) or taken[-1])
    file = both.builder.build(Recipe.uniform(LAYERS, 8)).artifact
    for count in (1, 5):
        both.time_together({str(index): file for index in range(count)}, "once")
    assert [item.protocol.max_s for item in taken] == pytest.approx([0.1, 0.3])
    assert [item.protocol.slice_s for item in taken] == pytest.approx([0.01, 0.03])


def test_a_hopeless_candidate_is_turned_away_with_what_was_seen() -> None:
    task = make_task(Residual, search=Data(600), metric="agreement")
    evaluator = build_evaluator(task, options=EvaluationOptions(latency=None))
    best = make_trial(5, np.ones(600, dtype=bool), size=10)
    gate = Gate([best], ["accuracy", "size"], Bounds())
    with pytest.raises(Rejection, match="trial 5 dominates it") as caught:
        evaluator.evaluate(Recipe.uniform(LAYERS, 4), gate)
    partial = caught.value.measurement.partial
    assert partial.samples < partial.of_samples == 600
    assert caught.value.measurement.accuracy is None
    assert caught.value.measurement.size_bytes > 10


def test_a_report_split_of_one_image_has_an_interval() -> None:
    options = EvaluationOptions(latency=None)
    evaluator = build_evaluator(make_task(Residual, report=Data(1)), options=options)
    figures = evaluator.report(evaluator.evaluate(Recipe.uniform(LAYERS, 8))[1])
    low, high = figures.report_accuracy_ci
    assert low <= figures.report_accuracy <= high
    assert high - low > 0.5, "one image proves next to nothing"


def test_reduced_range_uses_seven_bits_and_the_same_storage(evaluator: Evaluator) -> None:
    reduced = Recipe.uniform(LAYERS, 8, PtqOptions(reduce_range=True))
    found = evaluator.builder.quantizer.quantize(reduced).encodings.weights
    assert max(np.abs(weight.values).max() for weight in found.values()) == 63
    full, small = (evaluator.evaluate(r)[0] for r in (Recipe.uniform(LAYERS, 8), reduced))
    assert small.size_bytes == pytest.approx(full.size_bytes, abs=64)
    assert small.integer_coverage == 1.0


class Places(QuietPlace):
    """Notes what goes on in which kind of place."""

    def __init__(self, folder) -> None:
        super().__init__(1, folder)
        self.now: list[str] = []

    @contextmanager
    def turn(self):
        self.now.append("turn")
        with super().turn():
            yield
        self.now.pop()

    @contextmanager
    def work(self):
        self.now.append("work")
        with super().work() as is_shared:
            yield is_shared
        self.now.pop()


def test_everything_heavy_has_its_place(tmp_path) -> None:
    place, seen = Places(tmp_path), []

    class Watched(FakeBackend):
        def load(self, artifact, threads):
            seen.append(("load", tuple(place.now)))
            return super().load(artifact, threads)

        def measure_memory(self, artifact, threads, batch=1):
            seen.append(("memory", tuple(place.now), batch))
            return super().measure_memory(artifact, threads, batch)

    class Builder(FakeBuilder):
        def build(self, recipe):
            seen.append(("build", tuple(place.now)))
            return super().build(recipe)

    options = EvaluationOptions(batch=3, latency=QUICK, front_latency=QUICK)
    evaluator = Evaluator(
        Builder(), Watched(), FakeData(300), FakeData(100), options=options, place=place
    )
    recipe = Recipe.uniform([layer.name for layer in evaluator.layers], 8)
    artifact = evaluator.rebuild(recipe)
    evaluator.report(artifact)
    evaluator.measure(Candidate(artifact))
    evaluator.time_together({"one": artifact}, "once")
    evaluator.measure_memory(artifact)
    assert all(item[1] for item in seen), "nothing happens outside"
    assert ("memory", ("turn",), 3) in seen


def test_the_float_model_is_judged_once_a_split(tmp_path) -> None:
    calls = []

    def metric(outputs, targets):
        calls.append(len(outputs))
        return float(outputs.mean())

    options = EvaluationOptions(latency=None)
    evaluator = Evaluator(
        FakeBuilder(), FakeBackend(), FakeData(30), FakeData(20), metric, options=options
    )
    artifact = evaluator.rebuild(Recipe(method="fp32"))
    counts = []
    for _ in range(3):
        calls.clear()
        evaluator.report(artifact)
        counts.append(len(calls))
    assert counts[1] == counts[2] < counts[0] * 0.6
