"""Encodings onto a float .tflite file, through ai-edge-quantizer's graph transformations.

Which tensor gets which grid is decided here, from what the quantizers computed; placing quantize
and dequantize operators, packing 4-bit weights and the flatbuffer are that library's work.
LiteRT's 8-bit specification: activations int8 with a zero point, weights int8 without one (for
each output channel), biases int32 on the product of the two scales.
https://ai.google.dev/edge/litert/models/quantization_spec
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer.model_modifier import ModelModifier
from ai_edge_quantizer.qtyping import (
    OpToTensorParams,
    QuantTransformation,
    TensorTransformationParams,
    UniformQuantParams,
)
from ai_edge_quantizer.transformations.transformation_utils import (
    add_new_activation_tensor,
    add_op_code,
)

from autoquant.core.encodings import ActivationEncoding, Encodings, WeightEncoding
from autoquant.errors import RecipeError
from autoquant.export.litert.align import LayerPlace, LiteRtGraph
from autoquant.tflite import (
    BIASES,
    FLOAT,
    LAYERS,
    MOVERS,
    TABLES,
    activation_inputs,
    drop_unread,
    is_constant,
    name_of,
    operator_of,
    parse,
)

__all__ = ["write_litert"]

_MIDDLE = 128  # between unsigned storage, which encodings have, and int8
# Operators with integer kernels whose result may lie on any grid.
_FREE = frozenset({"ADD", "BATCH_MATMUL", "MEAN", "MUL", "SUB"})
# Their result lies on their input's grid, and is put on its own behind them.
_ON_INPUT_GRID = frozenset({"AVERAGE_POOL_2D"})
# Their inputs are put on the grid of their result first.
_ON_OUTPUT_GRID = frozenset({"CONCATENATION"})
# The specification fixes the grid of their result; it is put on its own behind them.
_FIXED = {"LOGISTIC": ActivationEncoding(scale=1 / 256, zero_point=0)}
_COMPUTING = _FREE | _ON_INPUT_GRID | _ON_OUTPUT_GRID | frozenset(_FIXED)


def write_litert(graph: LiteRtGraph, encodings: Encodings, *, is_integer_only: bool = False) -> Any:
    """The quantized model, `ModelT`.

    Args:
        graph: the float file.
        encodings: what to quantize; layers by name, activations by value name.
        is_integer_only: inputs and outputs of the file are int8 too, for processors without
            floats.

    Raises:
        RecipeError: an encoding for a layer that the file does not have, or with
            `is_integer_only` something that would stay float.
    """
    return _Writer(graph, encodings, is_integer_only).write()


class _Writer:
    def __init__(self, graph: LiteRtGraph, encodings: Encodings, is_integer_only: bool) -> None:
        self.model = parse(graph.content)
        self.operators = self.model.subgraphs[0].operators
        self.tensors = self.model.subgraphs[0].tensors
        self.values = graph.values
        self.encodings = encodings
        self.is_integer_only = is_integer_only
        self.places = {place.operator: name for name, place in graph.layers.items()}
        self.layers = graph.layers
        self.fused = graph.fused
        self.makers = {
            int(index): number
            for number, operator in enumerate(self.operators)
            for index in operator.outputs
        }
        self.read = {int(index) for operator in self.operators for index in operator.inputs}
        self.parameters: dict[str, TensorTransformationParams] = {}

    def write(self) -> Any:
        missing = [name for name in self.encodings.weights if name not in self.layers]
        if missing:
            raise RecipeError(f"'{missing[0]}' is quantized but not in the .tflite file")
        integer = self._find_integer()
        if self.is_integer_only:
            self._check_integer_only(integer)
        for number, operator in enumerate(self.operators):
            self._describe(number, operator, number in integer)
        self._describe_ends()
        outputs = self._set_read_outputs_aside()
        changed = ModelModifier(self.model).modify_model(self.parameters, enable_progress_bar=False)
        written = parse(bytes(changed))
        self._give_outputs(written, outputs)
        drop_unread(written)
        return written

    def _set_read_outputs_aside(self) -> list[int]:
        """Take the outputs that operators read as well out of the graph; returns all outputs.

        The quantizer would hand the readers' tensor out, whatever its type.
        """
        graph = self.model.subgraphs[0]
        outputs = [int(index) for index in graph.outputs]
        graph.outputs = [index for index in outputs if index not in self.read]
        return outputs

    def _give_outputs(self, written: Any, outputs: list[int]) -> None:
        """Put them back, as what the file is to give."""
        graph, left = written.subgraphs[0], iter(written.subgraphs[0].outputs)
        given = {index: index if index in self.read else int(next(left)) for index in outputs}
        if not self.is_integer_only:
            given |= {index: _as_float(written, index) for index in outputs if index in self.read}
        graph.outputs = [given[index] for index in outputs]
        for entry in written.signatureDefs[0].outputs:
            entry.tensorIndex = given.get(int(entry.tensorIndex), entry.tensorIndex)

    def _find_integer(self) -> set[int]:
        """Operators to run in integers; what only moves values does as what is around it."""
        found: set[int] = set()
        for number, operator in enumerate(self.operators):
            if self._can_be_integer(number, operator, found):
                found.add(number)
        for number in reversed(range(len(self.operators))):
            if number not in found and self._can_move(number, found):
                found.add(number)
        return found

    def _can_be_integer(self, number: int, operator: Any, integer: set[int]) -> bool:
        kind = operator_of(self.model, operator)
        if number in self.places:
            weight = self.encodings.weights.get(self.places[number])
            return weight is not None and weight.bias_scale is not None
        if kind in MOVERS:
            makers = {self.makers.get(i) for i in activation_inputs(self.model, operator)}
            return bool(makers & integer) and self._is_on_grids(operator)
        is_whole = kind in _COMPUTING and not self._has_number(operator)
        return is_whole and self._is_on_grids(operator) and self._is_read_so(operator)

    def _has_number(self, operator: Any) -> bool:
        """Whether a constant in floats takes part."""
        tensors = (self.tensors[index] for index in operator.inputs if index >= 0)
        return any(t.type == FLOAT and is_constant(self.model, t) for t in tensors)

    def _can_move(self, number: int, integer: set[int]) -> bool:
        """Whether an operator only moves what integer operators alone read."""
        operator = self.operators[number]
        if operator_of(self.model, operator) not in MOVERS or not self._is_on_grids(operator):
            return False
        readers = [
            other
            for other, reader in enumerate(self.operators)
            if set(map(int, reader.inputs)) & set(map(int, operator.outputs))
        ]
        return bool(readers) and integer.issuperset(readers)

    def _is_on_grids(self, operator: Any) -> bool:
        indices = [*activation_inputs(self.model, operator), *map(int, operator.outputs)]
        return all(self._grid_of(index) is not None for index in indices)

    def _is_read_so(self, operator: Any) -> bool:
        """Whether the quantized model, too, computes this from values on their grids."""
        readers = self.values.get(int(operator.outputs[0]), ())
        return all(
            any(self.encodings.is_read_quantized(origin, reader) for reader in readers)
            for index in activation_inputs(self.model, operator)
            if (origin := self._origin_of(index)) in self.encodings.readers
        )

    def _origin_of(self, index: int) -> str:
        """The value that decides on a tensor's grid; its own name if there is none."""
        names = self.values.get(index, ())
        layer = self.places.get(self.makers.get(index, -1))
        if layer is not None:
            # what an activation cuts off, the ends of its grid cut off as well
            names = (*names, self.fused.get(layer, ""))
        origins = [self.encodings.carriers.get(name, name) for name in names]
        on_grid = [name for name in origins if name in self.encodings.activations]
        if on_grid:
            return on_grid[0]
        maker = self.makers.get(index)
        if not names and maker is not None:  # the converter's own: padding apart from its layer
            operator = self.operators[maker]
            if operator_of(self.model, operator) in MOVERS:
                return self._origin_of(next(activation_inputs(self.model, operator), -1))
        return name_of(self.tensors[index]) if index >= 0 else ""

    def _grid_of(self, index: int) -> ActivationEncoding | None:
        return self.encodings.activations.get(self._origin_of(index))

    def _describe(self, number: int, operator: Any, is_integer: bool) -> None:
        """What an operator wants of its tensors."""
        kind = operator_of(self.model, operator)
        given = set(activation_inputs(self.model, operator))
        weights = set()
        if number in self.places and self.places[number] in self.encodings.weights:
            weights = set(self._describe_weights(number, operator, kind))
        for index in map(int, operator.inputs):
            if index >= 0 and index not in weights:
                grid = None
                if is_integer and index in given:
                    grid = self._grid_of(
                        int(operator.outputs[0]) if kind in _ON_OUTPUT_GRID else index
                    )
                self._consume(index, number, grid)
        for index in map(int, operator.outputs):
            grid = None
            if is_integer:
                source = next(iter(given)) if kind in _ON_INPUT_GRID | MOVERS else index
                grid = _FIXED.get(kind) or self._grid_of(source)
            self._produce(index, number, grid)

    def _describe_weights(self, number: int, operator: Any, kind: str) -> Iterator[int]:
        layer = self.places[number]
        encoding, place = self.encodings.weights[layer], self.layers[layer]
        index = int(operator.inputs[LAYERS[kind]])
        steps = [QuantTransformation.QUANTIZE_TENSOR]
        # kernels that read integers as they are: rows of a table are scaled when they are found
        is_read = layer in self.encodings.dynamic or kind in TABLES
        if encoding.bias_scale is None and not is_read:
            steps.append(QuantTransformation.ADD_DEQUANTIZE)  # stored so, computed in float
        self._add_consumer(index, number, steps, _weight_parameters(encoding, place))
        yield index
        if kind in TABLES:
            return
        bias = int(operator.inputs[BIASES[kind]])
        if encoding.bias_scale is None:
            data = encoding.bias.astype(np.float32)
            self.model.buffers[self.tensors[bias].buffer].data = np.frombuffer(
                data.tobytes(), dtype=np.uint8
            )
        else:
            parameters = _bias_parameters(encoding, encoding.bias_scale)
            self._add_consumer(bias, number, [QuantTransformation.QUANTIZE_TENSOR], parameters)
            yield bias

    def _describe_ends(self) -> None:
        """Inputs and outputs of the file: float, unless everything is to be integer."""
        for index in map(int, self.model.subgraphs[0].inputs):
            grid = self._grid_of(index) if self.is_integer_only else None
            self._produce(index, -1, grid)
        for index in {*map(int, self.model.subgraphs[0].outputs)} - self.read:
            self._consume(index, -1, self._grid_of(index) if self.is_integer_only else None)

    def _check_integer_only(self, integer: set[int]) -> None:
        for number, operator in enumerate(self.operators):
            ends = [*operator.inputs, *operator.outputs]
            if not any(self.tensors[index].type == FLOAT for index in ends if index >= 0):
                continue  # indices of rows, shapes
            if number not in integer:
                name = self.places.get(number) or name_of(self.tensors[operator.outputs[0]])
                kind = operator_of(self.model, operator)
                verb, way_out = (
                    ("gives", "") if kind in TABLES else ("stays", ", or quantize it too")
                )
                raise RecipeError(
                    f"'{name}' ({kind}) {verb} float, so the file cannot be integer throughout: "
                    f"leave out --full-integer{way_out}"
                )

    def _consume(self, index: int, number: int, grid: ActivationEncoding | None) -> None:
        steps = [
            QuantTransformation.NO_QUANTIZE if grid is None else QuantTransformation.ADD_QUANTIZE
        ]
        self._add_consumer(index, number, steps, None if grid is None else _parameters(grid))

    def _add_consumer(
        self,
        index: int,
        number: int,
        steps: list[QuantTransformation],
        parameters: UniformQuantParams | None,
    ) -> None:
        entry = self._entry(index)
        assert entry.consumers is not None
        entry.consumers.append(OpToTensorParams(number, steps, parameters))

    def _produce(self, index: int, number: int, grid: ActivationEncoding | None) -> None:
        step = (
            QuantTransformation.NO_QUANTIZE if grid is None else QuantTransformation.ADD_DEQUANTIZE
        )
        parameters = None if grid is None else _parameters(grid)
        self._entry(index).producer = OpToTensorParams(number, [step], parameters)

    def _entry(self, index: int) -> TensorTransformationParams:
        name = name_of(self.tensors[index])
        return self.parameters.setdefault(name, TensorTransformationParams(name, None, []))


def _as_float(model: Any, index: int) -> int:
    """The tensor itself, or what a dequantizer makes of it."""
    graph = model.subgraphs[0]
    tensor = graph.tensors[index]
    if tensor.type == FLOAT:
        return index
    for operator in graph.operators:
        if index in operator.inputs and operator_of(model, operator) == "DEQUANTIZE":
            return int(operator.outputs[0])
    added = schema.OperatorT()
    added.opcodeIndex = add_op_code(schema.BuiltinOperator.DEQUANTIZE, model.operatorCodes)
    name = f"{name_of(tensor)}_dequant".encode()
    made: int = add_new_activation_tensor(name, tensor.shape, FLOAT, graph)
    added.inputs, added.outputs = [index], [made]
    graph.operators.append(added)
    return made


def _parameters(grid: ActivationEncoding) -> UniformQuantParams:
    return UniformQuantParams(
        num_bits=grid.bits,
        quantized_dimension=None,
        scale=np.array([grid.scale], dtype=np.float32),
        zero_point=np.array([grid.zero_point - _MIDDLE], dtype=np.int64),
        symmetric=False,
    )


def _weight_parameters(encoding: WeightEncoding, place: LayerPlace) -> UniformQuantParams:
    return UniformQuantParams(
        num_bits=encoding.bits,
        quantized_dimension=place.channel_axis(encoding.axis),
        scale=encoding.scale.reshape(-1).astype(np.float32),
        zero_point=np.zeros(encoding.scale.size, dtype=np.int64),
        quantized_data=place.turn(encoding.values),
    )


def _bias_parameters(encoding: WeightEncoding, unit: npt.NDArray[np.float32]) -> UniformQuantParams:
    return UniformQuantParams(
        num_bits=32,
        quantized_dimension=0,
        scale=unit.reshape(-1).astype(np.float32),
        zero_point=np.zeros(unit.size, dtype=np.int64),
        quantized_data=encoding.bias.astype(np.int32),
    )
