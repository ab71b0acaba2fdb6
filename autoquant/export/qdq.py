"""Encodings onto a float graph: an ONNX file in QDQ form that the runtime fuses."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from autoquant.core.encodings import ActivationEncoding, Encodings, WeightEncoding
from autoquant.errors import RecipeError
from autoquant.export.float_graph import FloatGraph
from autoquant.export.gate import write_hard_sigmoid
from autoquant.export.linear import name_last, write_blockwise, write_dynamic
from autoquant.export.packing import WEIGHT_SUFFIX, store_integers
from autoquant.export.stored import write_table, write_transposed

__all__ = ["WEIGHT_SUFFIX", "write_qdq"]

# The runtime quantizes float weights of these by itself; see `_Writer._keep_float`.
_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_FLOAT_KERNELS = {"ConvTranspose": write_transposed, "Gather": write_table}


def write_qdq(graph: FloatGraph, encodings: Encodings, *, pack: bool = True) -> onnx.ModelProto:
    """Insert quantize and dequantize nodes.

    Args:
        graph: the float model; it is left as it is.
        encodings: what to quantize; layers by node name, activations by value name.
        pack: store 4-bit weights two to a byte behind a Cast, which the runtime folds when it
            loads the file; False stores them as 8-bit integers. Outputs are the same, bit
            for bit.

    Raises:
        RecipeError: an encoding for a layer or a value that the graph does not have.
    """
    return _Writer(graph, encodings, pack).write()


class _Writer:
    def __init__(self, graph: FloatGraph, encodings: Encodings, pack: bool) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(graph.model)
        self.graph = self.model.graph
        self.origins = graph.origins
        self.shapes = graph.shapes
        self.end = graph.module.graph.output_node().name
        self.encodings = encodings
        self.pack = pack
        self.parameters = {tensor.name: tensor for tensor in self.graph.initializer}
        self.added: list[onnx.TensorProto] = []
        self.absorbed: set[str] = set()

    def write(self) -> onnx.ModelProto:
        self._check()
        nodes: list[onnx.NodeProto] = []
        renamed: dict[str, str] = {}
        for value in self.graph.input:
            nodes += self._requantize(value.name, renamed)
        for node in self.graph.node:
            origin = self.origins[node.output[0]]
            weight = self.encodings.weights.get(node.name)
            if weight is None and origin in self.absorbed:
                continue  # the addition of a bias that the layer does by itself now
            node.input[:] = [self._read(name, origin, renamed) for name in node.input]
            if weight is not None:
                nodes += self._quantize_layer(node, weight)
            elif self._is_gate(node):
                nodes += self._write_gate(node)
            else:
                nodes += [*self._keep_float(node), node]
            for name in list(nodes[-1].output):
                nodes += self._requantize(name, renamed)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._restore_outputs(renamed)
        self._replace_parameters()
        return self.model

    def _read(self, name: str, reader: str, renamed: Mapping[str, str]) -> str:
        """What a reader takes: the value, or what is left of it on its grid."""
        origin = self.encodings.carriers.get(name, name)
        is_on_grid = name in renamed and self.encodings.is_read_quantized(origin, reader)
        return renamed[name] if is_on_grid else name

    def _check(self) -> None:
        names = {node.name for node in self.graph.node}
        values = {name for node in self.graph.node for name in node.output}
        values |= {value.name for value in self.graph.input}
        missing = [name for name in self.encodings.weights if name not in names]
        missing += [name for name in self.encodings.activations if name not in values]
        if missing:
            raise RecipeError(f"'{missing[0]}' is quantized but not in the exported graph")

    def _requantize(self, name: str, renamed: dict[str, str]) -> list[onnx.NodeProto]:
        """Q and DQ behind a value; its later readers read the DQ."""
        encoding = self._encoding_of(name)
        if encoding is None:
            return []
        scale, zero = self._activation_parameters(name, encoding)
        renamed[name] = f"{name}_dequantized"
        return [
            helper.make_node(
                "QuantizeLinear", [name, scale, zero], [f"{name}_q"], name=f"{name}/quantize"
            ),
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_q", scale, zero],
                [renamed[name]],
                name=f"{name}/dequantize",
            ),
        ]

    def _encoding_of(self, name: str) -> ActivationEncoding | None:
        origin = self.encodings.carriers.get(name, name)
        return self.encodings.activations.get(origin)

    def _activation_parameters(self, name: str, encoding: ActivationEncoding) -> tuple[str, str]:
        origin = self.encodings.carriers.get(name, name)
        names = f"{origin}_scale", f"{origin}_zero_point"
        if names[0] not in {tensor.name for tensor in self.added}:
            self._add(names[0], np.array(encoding.scale, dtype=np.float32))
            self._add(names[1], np.array(encoding.zero_point, dtype=np.uint8))
        return names

    def _quantize_layer(self, node: onnx.NodeProto, weight: WeightEncoding) -> list[onnx.NodeProto]:
        """The layer, behind its dequantized weight and bias."""
        if node.op_type in _FLOAT_KERNELS:
            return self._write_stored(node, weight)
        if weight.bias_scale is None:
            return self._write_unfixed(node, weight)
        source = node.input[0].removesuffix("_dequantized")
        if self._encoding_of(source) is None:
            raise RecipeError(f"layer '{node.name}' is quantized but its input '{source}' is not")
        scale = weight.scale if weight.is_per_channel else weight.scale.reshape(())
        nodes = self._dequantize_weight(f"{node.name}.weight", weight, scale)
        nodes.append(self._dequantize_bias(f"{node.name}.bias", weight))
        parameters = [nodes[-2].output[0], nodes[-1].output[0]]
        if node.op_type == "MatMul":
            return nodes + self._write_flat(node, parameters, weight)
        del node.input[1:]
        node.input.extend(parameters)
        return [*nodes, node]

    def _write_stored(self, node: onnx.NodeProto, weight: WeightEncoding) -> list[onnx.NodeProto]:
        """A layer that takes everything off its grid to compute in float."""
        before = self._keep_float(node)
        nodes, tensors = _FLOAT_KERNELS[node.op_type](node, weight, pack=self.pack)
        self.added += tensors
        return [*before, *nodes]

    def _write_unfixed(self, node: onnx.NodeProto, weight: WeightEncoding) -> list[onnx.NodeProto]:
        """A linear layer whose input is on no calibrated grid."""
        name, origin = node.name, self.origins[node.output[0]]
        self.absorbed.add(origin)
        if name in self.encodings.dynamic:
            nodes, tensors = write_dynamic(name, node.input[0], origin, weight, pack=self.pack)
        else:
            nodes, tensors = write_blockwise(name, node.input[0], origin, weight)
        self.added += tensors
        return nodes

    def _write_flat(
        self, node: onnx.NodeProto, parameters: Sequence[str], weight: WeightEncoding
    ) -> list[onnx.NodeProto]:
        """A linear layer over more than two dimensions as one over two, between reshapes.

        The runtime's integer Gemm adds the bias by itself and can answer in integers as well
        as in float; an integer MatMul can do neither without another pass over the result.
        """
        name, origin = node.name, self.origins[node.output[0]]
        self.absorbed.add(origin)
        outputs, inputs = weight.values.shape
        flat = [f"{name}/flat_input", f"{name}/flat"]
        self._add(f"{name}.flat_shape", np.array([-1, inputs], dtype=np.int64))
        shape = np.array([*self.shapes[origin][:-1], outputs], dtype=np.int64)
        self._add(f"{name}.shape", shape)
        return [
            helper.make_node(
                "Reshape", [node.input[0], f"{name}.flat_shape"], flat[:1], name=flat[0]
            ),
            helper.make_node("Gemm", [flat[0], *parameters], flat[1:], name=name, transB=1),
            helper.make_node(
                "Reshape", [flat[1], f"{name}.shape"], [origin], name=name_last(name, origin)
            ),
        ]

    def _is_gate(self, node: onnx.NodeProto) -> bool:
        """Whether a hard sigmoid stands between a dequantizer and a quantizer."""
        is_dequantized = node.input[0].endswith("_dequantized")
        is_hard = node.op_type == "HardSigmoid" and is_dequantized
        return is_hard and self._encoding_of(node.output[0]) is not None

    def _write_gate(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        source = node.input[0].removesuffix("_dequantized")
        encoding = self._encoding_of(source)
        assert encoding is not None
        _, zero = self._activation_parameters(source, encoding)
        nodes, tensors = write_hard_sigmoid(node, f"{source}_q", encoding.scale, zero)
        self.added += tensors
        return nodes

    def _keep_float(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Give a layer in float a dequantizer of its own, with one scale for each channel.

        The scales are all the same, so nothing is computed otherwise. But ONNX Runtime
        (WeightBiasQuantization) quantizes the float weights of a layer that stands between a
        per-tensor dequantizer and a quantizer, per tensor and without a word.
        """
        if node.op_type not in _LAYERS:
            return []
        source = node.input[0].removesuffix("_dequantized")
        encoding = self._encoding_of(source)
        weight = self.parameters.get(node.input[1])
        if encoding is None or weight is None or node.input[0] == source:
            return []
        channels = self.shapes[source][1]
        name = f"{node.name}.input"
        self._add(f"{name}_scale", np.full(channels, encoding.scale, dtype=np.float32))
        self._add(f"{name}_zero_point", np.full(channels, encoding.zero_point, dtype=np.uint8))
        node.input[0] = f"{name}_dequantized"
        return [
            helper.make_node(
                "DequantizeLinear",
                [f"{source}_q", f"{name}_scale", f"{name}_zero_point"],
                [node.input[0]],
                name=f"{name}/dequantize",
                axis=1,
            )
        ]

    def _dequantize_weight(
        self, name: str, weight: WeightEncoding, scale: npt.NDArray[np.float32]
    ) -> list[onnx.NodeProto]:
        stored, nodes, values = store_integers(name, weight.values, weight.bits, pack=self.pack)
        self.added.append(values)
        self._add(f"{name}_scale", scale)
        self._add(f"{name}_zero_point", np.zeros(scale.shape, dtype=np.int8))
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [stored, f"{name}_scale", f"{name}_zero_point"],
                [f"{name}_dequantized"],
                name=f"{name}/dequantize",
            )
        )
        _set_axis(nodes[-1], scale)
        return nodes

    def _dequantize_bias(self, name: str, weight: WeightEncoding) -> onnx.NodeProto:
        # The zero point may be left out here; a Gemm whose weight lacks one is not fused.
        assert weight.bias_scale is not None
        scale = weight.bias_scale if weight.is_per_channel else weight.bias_scale.reshape(())
        self._add(name + WEIGHT_SUFFIX, weight.bias)
        self._add(f"{name}_scale", scale)
        node = helper.make_node(
            "DequantizeLinear",
            [name + WEIGHT_SUFFIX, f"{name}_scale"],
            [f"{name}_dequantized"],
            name=f"{name}/dequantize",
        )
        _set_axis(node, scale)
        return node

    def _add(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self.added.append(numpy_helper.from_array(np.asarray(values, order="C"), name))

    def _restore_outputs(self, renamed: Mapping[str, str]) -> None:
        """A graph output that lies on a grid keeps its name on the dequantized value."""
        for value in self.graph.output:
            if self._read(value.name, self.end, renamed) != value.name:
                inner, outer = f"{value.name}_float", renamed[value.name]
                for node in self.graph.node:
                    swap = {value.name: inner, outer: value.name}
                    node.input[:] = [swap.get(name, name) for name in node.input]
                    node.output[:] = [swap.get(name, name) for name in node.output]

    def _replace_parameters(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend([*kept, *self.added])


def _set_axis(node: onnx.NodeProto, scale: npt.NDArray[np.float32]) -> None:
    """Per-channel scales run along the output channels, which come first."""
    if scale.ndim:
        node.attribute.append(helper.make_attribute("axis", 0))
