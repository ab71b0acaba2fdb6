"""Encodings onto a float graph: an ONNX file in QDQ form that the runtime fuses."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from autoquant.core.encodings import ActivationEncoding, Encodings, WeightEncoding
from autoquant.errors import RecipeError
from autoquant.export.packing import packed_tensor

__all__ = ["WEIGHT_SUFFIX", "write_qdq"]

WEIGHT_SUFFIX = "_quantized"
_LAYERS = ("Conv", "Gemm")


def write_qdq(
    model: onnx.ModelProto, encodings: Encodings, *, pack: bool = True
) -> onnx.ModelProto:
    """Insert quantize and dequantize nodes.

    Args:
        model: the float model; it is left as it is.
        encodings: what to quantize; layers by node name, activations by value name.
        pack: store 4-bit weights two to a byte behind a Cast, which the runtime folds when it
            loads the file; False stores them as 8-bit integers. Outputs are the same, bit
            for bit.

    Raises:
        RecipeError: an encoding for a layer or a value that the graph does not have.
    """
    return _Writer(model, encodings, pack).write()


class _Writer:
    def __init__(self, model: onnx.ModelProto, encodings: Encodings, pack: bool) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.encodings = encodings
        self.pack = pack
        self.parameters = {tensor.name: tensor for tensor in self.graph.initializer}
        self.added: list[onnx.TensorProto] = []

    def write(self) -> onnx.ModelProto:
        self._check()
        nodes: list[onnx.NodeProto] = []
        renamed: dict[str, str] = {}
        for value in self.graph.input:
            nodes += self._requantize(value.name, renamed)
        for node in self.graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            weight = self.encodings.weights.get(node.name)
            if weight is not None:
                nodes += self._quantize_layer(node, weight)
            elif node.op_type in _LAYERS:
                nodes += self._keep_float(node)
            nodes.append(node)
            for name in list(node.output):
                nodes += self._requantize(name, renamed)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._restore_outputs(renamed)
        self._replace_parameters()
        return self.model

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
        source = node.input[0].removesuffix("_dequantized")
        encoding = self._encoding_of(source)
        if encoding is None:
            raise RecipeError(f"layer '{node.name}' is quantized but its input '{source}' is not")
        scale = weight.scale if weight.is_per_channel else weight.scale.reshape(())
        nodes = self._dequantize_weight(f"{node.name}.weight", weight, scale)
        nodes.append(self._dequantize_bias(f"{node.name}.bias", weight))
        del node.input[1:]
        node.input.extend([nodes[-2].output[0], nodes[-1].output[0]])
        return nodes

    def _keep_float(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Give an excluded layer a dequantizer of its own, with one scale for each channel.

        The scales are all the same, so nothing is computed otherwise. But ONNX Runtime
        (WeightBiasQuantization) quantizes the float weights of a layer that stands between a
        per-tensor dequantizer and a quantizer, per tensor and without a word.
        """
        source = node.input[0].removesuffix("_dequantized")
        encoding = self._encoding_of(source)
        weight = self.parameters.get(node.input[1])
        if encoding is None or weight is None or node.input[0] == source:
            return []
        groups = next((item.i for item in node.attribute if item.name == "group"), 1)
        channels = weight.dims[1] * groups
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
        stored = name + WEIGHT_SUFFIX
        nodes = []
        if weight.bits == 4 and self.pack:
            self.added.append(packed_tensor(stored, weight.values))
            widened = f"{name}_int8"
            nodes.append(
                helper.make_node(
                    "Cast", [stored], [widened], name=f"{name}/widen", to=onnx.TensorProto.INT8
                )
            )
            stored = widened
        else:
            self._add(stored, weight.values)
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
        """A graph output that was quantized keeps its name on the dequantized value."""
        for value in self.graph.output:
            if value.name in renamed:
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
