"""The contract of `Backend`, run over every implementation."""

import numpy as np
import pytest

from autoquant.backends.base import Backend
from autoquant.backends.fake import FakeBackend, FakeBuilder
from autoquant.backends.onnxruntime import OrtBackend
from autoquant.build import TaskBuilder
from autoquant.core.artifact import Artifact, Builder
from autoquant.core.recipe import Recipe
from autoquant.errors import ArtifactError
from tests.networks import Data, Residual, make_task


@pytest.fixture(scope="module")
def residual_builder() -> TaskBuilder:
    return TaskBuilder(make_task(Residual))


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


class TestOrt(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return OrtBackend()

    @pytest.fixture
    def builder(self, residual_builder: TaskBuilder) -> Builder:
        return residual_builder

    @pytest.fixture
    def batch(self) -> np.ndarray:
        return Data(8).x.numpy()

    def test_foreign_bytes_are_refused(self, backend) -> None:
        with pytest.raises(ArtifactError, match="ONNX Runtime cannot load"):
            backend.load(Artifact(b"not onnx", {}, {}), 1)

    def test_layer_names_that_are_prefixes_are_kept_apart(self, backend, builder) -> None:
        artifact = self.artifact(builder, 8)
        assert backend.find_integer_layers(artifact, ["st", "stem", "stem2"]) == {"stem"}


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
