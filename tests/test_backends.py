"""The contracts of `Backend` and `FileBackend`, run over every implementation."""

import sys
from functools import cache

import numpy as np
import onnx
import pytest

from autoquant.backends.base import Backend
from autoquant.backends.fake import FakeBackend, FakeBuilder
from autoquant.backends.inputs import InputSpec, random_inputs
from autoquant.backends.registry import BACKENDS, backend_of, load_backend
from autoquant.build import TaskBuilder, build_evaluator
from autoquant.compare import compare_layers
from autoquant.core.artifact import Artifact, Builder
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.errors import ArtifactError, InputError, TrialError
from autoquant.evaluate import EvaluationOptions
from autoquant.tasks import load_task
from tests.networks import Data, Pair, PairData, Residual, TwoHeads, make_task


@cache
def residual_builder(backend: str) -> TaskBuilder:
    return TaskBuilder(make_task(Residual), conditions={"backend": backend})


class BackendContract:
    """What every backend must do. Subclasses give a backend, a builder and a batch."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError  # each implementation overrides the three fixtures

    @pytest.fixture
    def builder(self) -> Builder:
        raise NotImplementedError  # see above

    @pytest.fixture
    def batch(self) -> np.ndarray:
        raise NotImplementedError  # see above

    def artifact(self, builder: Builder, bits: int | None) -> Artifact:
        names = [layer.name for layer in builder.layers]
        recipe = Recipe(method="fp32") if bits is None else Recipe.uniform(names, bits)
        return builder.build(recipe).artifact

    def test_predicts_a_row_a_sample(self, backend, builder, batch) -> None:
        outputs = backend.load(self.artifact(builder, 8), 1).predict(batch)
        assert outputs.shape[0] == len(batch)
        assert outputs.dtype == np.float32
        assert np.isfinite(outputs).all()

    def test_predictions_repeat(self, backend, builder, batch) -> None:
        session = backend.load(self.artifact(builder, 8), 1)
        assert (session.predict(batch) == session.predict(batch)).all()

    def test_predictions_do_not_depend_on_the_batch(self, backend, builder, batch) -> None:
        session = backend.load(self.artifact(builder, 8), 1)
        singles = np.concatenate([session.predict(batch[i : i + 1]) for i in range(len(batch))])
        assert np.allclose(session.predict(batch), singles, atol=1e-5)

    def test_time_is_positive(self, backend, builder, batch) -> None:
        session = backend.load(self.artifact(builder, None), 1)
        assert session.time_once(batch[:1]) > 0

    def test_integer_layers_are_those_that_are_stored_so(self, backend, builder) -> None:
        names = [layer.name for layer in builder.layers]
        assert backend.find_integer_layers(self.artifact(builder, None), names) == frozenset()
        assert backend.find_integer_layers(self.artifact(builder, 8), names) == frozenset(names)
        assert backend.find_integer_layers(self.artifact(builder, 4), names) == frozenset(names)

    def test_an_excluded_layer_is_float(self, backend, builder) -> None:
        names = [layer.name for layer in builder.layers]
        recipe = Recipe.quantized({**dict.fromkeys(names, 8), names[1]: None})
        found = backend.find_integer_layers(builder.build(recipe).artifact, names)
        assert found == frozenset(names) - {names[1]}

    def test_fingerprint_names_machine_and_versions(self, backend) -> None:
        assert set(backend.fingerprint()) == {"machine", "versions"}
        assert backend.name


class FileBackendContract(BackendContract):
    """What every backend of real files must do beside that. Subclasses give its name in prose."""

    prose: str

    @pytest.fixture
    def builder(self, backend) -> Builder:
        return residual_builder(backend.name)

    @pytest.fixture
    def batch(self) -> np.ndarray:
        return Data(8).x.numpy()

    @pytest.mark.parametrize("content", [b"not onnx", b""])
    def test_foreign_bytes_are_refused_in_one_line(self, backend, content: bytes) -> None:
        with pytest.raises(ArtifactError, match=f"{self.prose} cannot load") as caught:
            backend.load(Artifact(content, {}, {}), 1)
        assert "\n" not in str(caught.value)

    def test_inputs_that_do_not_fit_are_refused_in_one_line(self, backend, builder) -> None:
        session = backend.load(self.artifact(builder, 8), 1)
        for inputs in (np.zeros((1, 7), np.float32), {"nonsense": np.zeros((1, 3, 8, 8))}):
            with pytest.raises(TrialError, match=f"{self.prose} cannot run") as caught:
                session.time_once(inputs)
            assert "\n" not in str(caught.value)

    def test_layer_names_that_are_prefixes_are_kept_apart(self, backend, builder) -> None:
        artifact = self.artifact(builder, 8)
        assert backend.find_integer_layers(artifact, ["st", "stem", "stem2"]) == {"stem"}

    def test_random_inputs_have_the_batch_size(self, backend, builder) -> None:
        session = backend.load(self.artifact(builder, 8), 1)
        inputs = session.random_inputs(4)
        assert [value.shape for value in inputs.values()] == [(4, 3, 8, 8)]
        assert session.predict(inputs).shape == (4, 5)

    def test_all_outputs_begin_with_the_predicted_one(self, backend, builder, batch) -> None:
        session = backend.load(self.artifact(builder, 8), 1)
        found = session.run_all(batch)
        assert (next(iter(found.values())) == session.predict(batch)).all()

    def test_layers_and_outputs_are_compared_one_by_one(self, backend, batch) -> None:
        builder = TaskBuilder(make_task(TwoHeads), conditions={"backend": backend.name})
        names = [layer.name for layer in builder.layers]
        recipe = Recipe.uniform(names, 8, PtqOptions(reduce_range=True))  # exact anywhere
        found = compare_layers(builder.build(recipe).artifact, recipe, builder, batch)
        assert list(found)[: len(names)] == names
        assert len(found) == len(names) + 2
        assert min(found.values()) > 40

    def test_named_inputs_go_where_they_belong(self, backend) -> None:
        data = PairData(8)
        task = make_task(
            Pair, calibration=data, search=data, report=None,
            example_input={name: value[None] for name, value in data[0][0].items()},
        )  # fmt: skip
        builder = TaskBuilder(task, conditions={"backend": backend.name})
        session = backend.load(builder.build(Recipe(method="fp32")).artifact, 1)
        inputs = {name: value[None].numpy() for name, value in data[0][0].items()}
        swapped = {"a": inputs["b"], "b": inputs["a"]}
        assert np.abs(session.predict(inputs) - session.predict(swapped)).max() > 1e-3

    def test_outputs_outlive_the_next_run(self, backend, builder, batch) -> None:
        session = backend.load(self.artifact(builder, None), 1)
        first = session.predict(batch)
        copy = first.copy()
        session.predict(batch + 1)
        assert (first == copy).all()

    def test_profile_tells_integer_kernels_from_float_ones(self, backend, builder) -> None:
        kernels = [
            {node.kernel for node in backend.profile_nodes(self.artifact(builder, bits), runs=2)}
            for bits in (None, 8)
        ]
        assert kernels[0] != kernels[1]

    def test_memory_grows_when_a_file_is_loaded(self, backend, builder) -> None:
        assert backend.measure_memory(self.artifact(builder, 8), 1) > 0


class TestOrt(FileBackendContract):
    prose = "ONNX Runtime"

    @pytest.fixture
    def backend(self) -> Backend:
        return load_backend("onnxruntime")


class TestOpenVino(FileBackendContract):
    prose = "OpenVINO"

    @pytest.fixture
    def backend(self) -> Backend:
        return load_backend("openvino")

    def test_an_integer_constant_behind_a_clip_runs_in_float(self, backend, builder) -> None:
        """The trap of other exporters' files: what the file stores is not what runs."""
        artifact = self.artifact(builder, 8)
        model = onnx.load_from_string(artifact.content)
        for index, node in enumerate(model.graph.node):
            if node.name == "body.weight/dequantize":
                bounds = [
                    onnx.numpy_helper.from_array(np.array(value, np.int8), f"bound{value}")
                    for value in (-127, 127)
                ]
                model.graph.initializer.extend(bounds)
                names = [node.input[0], *(bound.name for bound in bounds)]
                node.input[0] = "clipped"
                model.graph.node.insert(index, onnx.helper.make_node("Clip", names, ["clipped"]))
                break
        changed = Artifact(model.SerializeToString(), artifact.precisions, {})
        names = [layer.name for layer in builder.layers]
        assert backend.find_integer_layers(changed, names) == frozenset(names) - {"body"}

    @pytest.mark.long
    def test_the_digits_run_in_integers_and_agree_with_onnx_runtime(self, backend) -> None:
        options = EvaluationOptions(latency=None)
        evaluator = build_evaluator(load_task("digits"), options=options, backend="openvino")
        names = [layer.name for layer in evaluator.layers]
        measurement, artifact = evaluator.evaluate(Recipe.uniform(names, 8))
        assert measurement.integer_coverage == 1.0
        assert artifact.passport["conditions"]["backend"] == "openvino"
        assert {"openvino", "onnxruntime"} <= set(artifact.passport["versions"])
        outputs = [
            evaluator.predict(load_backend(name).load(artifact, 1), evaluator.search.batches)
            for name in ("onnxruntime", "openvino")
        ]
        classes = [output.argmax(axis=1) for output in outputs]
        assert (classes[0] == classes[1]).mean() >= 0.99


class TestLiteRt(FileBackendContract):
    prose = "LiteRT"

    @pytest.fixture
    def backend(self) -> Backend:
        pytest.importorskip("ai_edge_litert")
        return load_backend("litert")


class TestFake(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return FakeBackend()

    @pytest.fixture
    def builder(self) -> Builder:
        return FakeBuilder(6)

    @pytest.fixture
    def batch(self) -> np.ndarray:
        return np.arange(20)

    def test_fewer_bits_are_smaller_and_less_accurate(self, backend, builder) -> None:
        targets = np.arange(1000)
        eight, four = self.artifact(builder, 8), self.artifact(builder, 4)
        assert four.size_bytes < eight.size_bytes
        hits = [
            (backend.load(item, 1).predict(targets).argmax(1) == targets % 10).mean()
            for item in (four, eight)
        ]
        assert hits[0] < hits[1]


def test_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="'magic'; there are onnxruntime, openvino"):
        load_backend("magic")


@pytest.mark.parametrize(
    ("name", "package"), [("openvino", "openvino"), ("litert", "ai_edge_litert")]
)
def test_backend_without_its_package_says_what_to_install(monkeypatch, name, package) -> None:
    for module in [item for item in sys.modules if item.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "autoquant.tflite", raising=False)
    monkeypatch.delitem(sys.modules, f"autoquant.backends.{name}", raising=False)
    with pytest.raises(InputError, match=rf"pip install 'autoquant\[{name}\]'"):
        load_backend(name)


@pytest.mark.parametrize("name", BACKENDS)
def test_backends_know_their_own_name(name: str) -> None:
    assert load_backend(name).name == name


def test_conditions_of_older_files_mean_onnx_runtime() -> None:
    assert backend_of({"threads": 1}) == "onnxruntime"
    assert backend_of({"backend": "openvino"}) == "openvino"


def test_only_the_batch_of_a_file_may_be_open_to_be_timed() -> None:
    """What a picture of one pixel takes says nothing of a picture."""
    specs = [InputSpec("x", (None, 3, 8, 8), "float"), InputSpec("n", (), "float")]
    made = random_inputs(specs, {"float": np.float32}, 5)
    assert made["x"].shape == (5, 3, 8, 8)
    assert made["n"].shape == ()
    with pytest.raises(ArtifactError, match=r"input 'x' has the shape \(\?, 3, \?, \?\).* fix all"):
        random_inputs([InputSpec("x", (None, 3, None, None), "float")], {"float": np.float32}, 1)
