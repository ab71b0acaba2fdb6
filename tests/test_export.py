import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from autoquant import build
from autoquant.build import TaskBuilder
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.errors import ArtifactError, RecipeError
from autoquant.export.float_graph import export_float
from autoquant.export.formats import read_artifact
from autoquant.export.onnx_file import graph_digest, load_model, read_passport, write_passport
from autoquant.export.packing import pack_int4, packed_tensor, unpack_int4
from autoquant.export.qdq import write_qdq
from autoquant.export.readback import read_precisions
from autoquant.quantize.trace import trace
from tests.networks import Builtin, Data, Residual, make_task

LAYERS = ["stem", "body", "down", "fc"]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def builder() -> TaskBuilder:
    return TaskBuilder(make_task(Residual))


@given(arrays(np.int8, st.integers(1, 40), elements=st.integers(-8, 7)))
def test_unpack_is_the_inverse_of_pack(values: np.ndarray) -> None:
    packed = pack_int4(values)
    assert len(packed) == (len(values) + 1) // 2
    assert (unpack_int4(packed, values.shape) == values).all()


def test_packed_tensor_reads_as_onnx_reads_it() -> None:
    values = np.arange(-8, 7, dtype=np.int8).reshape(3, 5)
    tensor = packed_tensor("w", values)
    assert (onnx.numpy_helper.to_array(tensor).astype(np.int8) == values).all()
    assert len(tensor.raw_data) == 8


def run(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def test_float_file_computes_what_the_model_does(builder: TaskBuilder) -> None:
    inputs = torch.stack([Data(16)[index][0] for index in range(16)])
    with torch.no_grad():
        expected = builder.task.model(inputs).numpy()
    assert np.allclose(run(builder.exporter.graph.model, inputs.numpy()), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_packed_file_is_bit_identical_to_unpacked(builder: TaskBuilder, seed: int) -> None:
    random = np.random.default_rng(seed)
    widths = {name: (8, 4, None)[random.integers(3)] for name in LAYERS}
    widths["body"] = 4
    encodings = builder.quantizer.quantize(Recipe.quantized(widths)).encodings
    inputs = Data(32, seed=seed).x.numpy()
    packed = write_qdq(builder.exporter.graph, encodings)
    plain = write_qdq(builder.exporter.graph, encodings, pack=False)
    assert (run(packed, inputs) == run(plain, inputs)).all()
    assert len(packed.SerializeToString()) < len(plain.SerializeToString())


def test_exported_files_pass_the_checker_with_full_shape_inference(builder: TaskBuilder) -> None:
    for recipe in (Recipe.uniform(LAYERS, 4), Recipe.uniform(LAYERS, 8)):
        content = builder.build(recipe).artifact.content
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


class Pooled(nn.Module):
    """A mean over the image, which becomes a pool and leaves its axes behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3), keepdim=True).flatten(1))


@pytest.mark.parametrize("recipe", [Recipe(method="fp32"), Recipe.uniform(["conv", "fc"], 4)])
def test_nothing_in_a_file_is_unread(recipe: Recipe) -> None:
    graph = load_model(TaskBuilder(make_task(Pooled)).build(recipe).artifact.content).graph
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert all(read.intersection(node.output) for node in graph.node)
    assert "GlobalAveragePool" in {node.op_type for node in graph.node}


@pytest.mark.parametrize("kind", [Residual, Builtin])
def test_a_remembered_capture_gives_the_same_files(monkeypatch, kind: type[nn.Module]) -> None:
    """What all tests rely on; see `tests.captures`."""
    builders = [TaskBuilder(make_task(kind)) for _ in range(2)]
    monkeypatch.setattr(build, "trace", trace)
    monkeypatch.setattr(build, "export_float", export_float)
    builders.append(TaskBuilder(make_task(kind)))
    for options in (PtqOptions(), PtqOptions(equalization=True)):
        recipe = Recipe.uniform([layer.name for layer in builders[0].layers], 4, options)
        assert len({builder.build(recipe).artifact.sha256 for builder in builders}) == 1


@pytest.mark.parametrize("name", ["w8a8", "w4a8", "mixed"])
def test_graph_structure_is_golden(builder: TaskBuilder, name: str) -> None:
    """Nodes and stored types, one a line; figures may move, the structure may not."""
    recipes = {
        "w8a8": Recipe.uniform(LAYERS, 8),
        "w4a8": Recipe.uniform(LAYERS, 4),
        "mixed": Recipe.quantized({"stem": 8, "body": 4, "down": None, "fc": 4}),
    }
    model = onnx.load_from_string(builder.build(recipes[name]).artifact.content)
    types = onnx.TensorProto.DataType
    lines = [f"{node.op_type} {node.name}" for node in model.graph.node]
    lines += sorted(f"{types.Name(i.data_type)} {i.name}" for i in model.graph.initializer)
    path = GOLDEN / f"residual-{name}.txt"
    assert "\n".join(lines) + "\n" == path.read_text()


def test_precisions_are_read_back(builder: TaskBuilder) -> None:
    recipe = Recipe.quantized({"stem": 8, "body": 4, "down": None, "fc": 4})
    artifact = read_artifact(builder.build(recipe).artifact.content)
    assert artifact.precisions == {"stem": "int8", "body": "int4", "down": "float32", "fc": "int4"}
    assert artifact.passport["digest"] == recipe.digest


@pytest.mark.parametrize("method", ["fp32", "ort-static", "ort-dynamic"])
def test_precisions_of_the_baselines(builder: TaskBuilder, method: str) -> None:
    artifact = builder.build(Recipe(method=method)).artifact
    kinds = Counter(read_precisions(load_model(artifact.content)).values())
    assert kinds == {"float32": 4} if method == "fp32" else kinds["int8"] == 4


def test_passport_does_not_change_the_size(builder: TaskBuilder) -> None:
    artifact = builder.build(Recipe.uniform(LAYERS, 8)).artifact
    figures = {"accuracy": 0.1234567890123, "latency_ratio_ci": [0.1234567890123, 0.5]}
    sealed = builder.seal(artifact, figures)
    assert len(sealed.content) == len(artifact.content)
    model = load_model(sealed.content)
    assert read_passport(model)["measurement"] == figures
    assert graph_digest(model) == artifact.passport["graph_sha256"]


def test_a_changed_weight_changes_the_graph_digest(builder: TaskBuilder) -> None:
    model = load_model(builder.build(Recipe.uniform(LAYERS, 8)).artifact.content)
    before = graph_digest(model)
    weight = next(item for item in model.graph.initializer if item.name.startswith("stem.weight_q"))
    raw = bytearray(weight.raw_data)
    raw[0] ^= 1
    weight.raw_data = bytes(raw)
    assert graph_digest(model) != before


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07\x12", b"\x00" * 100])
def test_what_is_no_onnx_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="not a whole ONNX file"):
        read_artifact(content)


def test_truncated_file_is_refused(builder: TaskBuilder) -> None:
    content = builder.build(Recipe.uniform(LAYERS, 8)).artifact.content
    for length in (100, len(content) // 2, len(content) - 10):
        with pytest.raises(ArtifactError):
            read_artifact(content[:length])


def test_damaged_passport_is_refused(builder: TaskBuilder) -> None:
    model = load_model(builder.build(Recipe(method="fp32")).artifact.content)
    model.metadata_props[0].value = "{half"
    with pytest.raises(ArtifactError, match="passport"):
        read_passport(model)


def test_encodings_of_a_missing_layer_are_refused(builder: TaskBuilder) -> None:
    encodings = builder.quantizer.quantize(Recipe.uniform(LAYERS, 8)).encodings
    other = dataclasses.replace(builder.exporter.graph, model=onnx.ModelProto())
    other.model.CopyFrom(builder.exporter.graph.model)
    other.model.graph.node[0].name = "renamed"
    with pytest.raises(RecipeError, match="'stem' is quantized but not in the exported graph"):
        write_qdq(other, encodings)


def test_write_passport_replaces_the_old_one(builder: TaskBuilder) -> None:
    model = load_model(write_passport(builder.exporter.graph.model, {"a": 1}))
    again = load_model(write_passport(model, {"b": 2}))
    assert read_passport(again) == {"b": 2}
    assert len(again.metadata_props) == 1
