"""Which value of the torch graph each tensor of its .tflite file is, and where its layers are.

The converter lays images out with their channels last, fuses activations, folds constants and
keeps no names. So tensors are told by what they hold: the graph and the file are run on a sample
and on noise, and a tensor is the value whose numbers it has in both, in whatever order; a grid does
not mind the order. A layer is told by its weights, number for number.
"""

import itertools
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from autoquant.errors import TraceError
from autoquant.export.exporter import Sample
from autoquant.export.litert.convert import explain
from autoquant.tflite import (
    BIASES,
    CHANNELS_LAST,
    FLOAT,
    LAYERS,
    MOVERS,
    TABLES,
    WEIGHT_SUFFIX,
    activation_inputs,
    add_tensor,
    drop_unread,
    operator_of,
    parse,
    read_array,
    serialize,
    silenced,
    text_of,
)

__all__ = ["LayerPlace", "LiteRtGraph", "align"]

Array = npt.NDArray[Any]
# Kernels of the two runtimes add up in other orders.
_TOLERANCE = 1e-4  # of the largest magnitude


@dataclass(frozen=True)
class LayerPlace:
    """Where a layer is in a file.

    Attributes:
        operator: index of its operator.
        shape: what its weights are reshaped to first (a 1-D kernel gets a height).
        axes: how they are turned then.
    """

    operator: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def turn(self, weights: Array) -> Array:
        """Weights of the torch graph as the file has them."""
        return np.ascontiguousarray(weights.reshape(self.shape).transpose(self.axes))

    def channel_axis(self, axis: int) -> int:
        """The file's dimension of output channels.

        Args:
            axis: that of the torch graph; a height is only ever put behind it.
        """
        return self.axes.index(axis)


@dataclass(frozen=True)
class LiteRtGraph:
    """The float file, and what its parts are in the torch graph.

    Attributes:
        content: the file; tensors are named after values, weights after layers.
        values: by index of a tensor, the values whose numbers it has.
        layers: by name, where the layers are; one that is missing was changed by the converter.
        fused: by layer that the file has as the torch graph does, the value behind the activation
            that is fused with it; a layer that is missing, or reads something else than there, was
            merged with what is around it.
    """

    content: bytes
    values: Mapping[int, tuple[str, ...]]
    layers: Mapping[str, LayerPlace]
    fused: Mapping[str, str]


def align(content: bytes, sample: Sample) -> LiteRtGraph:
    """Find the values and layers of a torch graph in its file.

    Args:
        content: the float file.
        sample: what the torch graph computes, and its weights.
    """
    model = parse(content)
    _give_biases(model)
    _sign(model, sample)
    tensors, found = _recognize(model, sample)
    if _restore_layers(model, sample, found, tensors):
        tensors, found = _recognize(model, sample)
    _check_results(model, sample, found)
    layers = _find_layers(model, sample)
    _separate_constants(model, layers)
    places = drop_unread(model)
    tensors = {places[index]: tensor for index, tensor in tensors.items() if index in places}
    found = {places[index]: values for index, values in found.items() if index in places}
    names = {
        index: values[0] + _find_layout(tensors[index], sample.values[values[0]])
        for index, values in found.items()
    }
    _name(model, names, layers)
    operators = model.subgraphs[0].operators
    fused = {
        layer: sample.fused[layer]
        for layer, place in layers.items()
        if {sample.fused[layer], sample.outputs[layer]}
        & {*found.get(int(operators[place.operator].outputs[0]), ())}
        and (layer in sample.tables or _reads_known(model, operators[place.operator], found))
    }
    return LiteRtGraph(serialize(model), found, layers, fused)


def _reads_known(model: Any, operator: Any, values: Mapping[int, tuple[str, ...]]) -> bool:
    """Whether an operator reads a value of the torch graph, moved perhaps."""
    operators = model.subgraphs[0].operators
    makers = {int(index): item for item in operators for index in item.outputs}
    index = next(activation_inputs(model, operator), -1)
    while index not in values:
        maker = makers.get(index)
        if maker is None or operator_of(model, maker) not in MOVERS:
            return False
        index = next(activation_inputs(model, maker), -1)
    return True


def _recognize(model: Any, sample: Sample) -> tuple[dict[int, Array], dict[int, tuple[str, ...]]]:
    """Tensors for the sample, and the values that they are, on the sample and on another one."""
    tensors = _run(model, sample.inputs)
    found = _match(tensors, sample.values)
    again = _match(_run(model, sample.other_inputs), sample.other_values)
    both = {
        index: tuple(name for name in names if name in again.get(index, ()))
        for index, names in found.items()
    }
    for entry in model.signatureDefs[0].inputs:  # what is an input needs no guess
        name = _text(entry)
        if name in sample.values:
            both[entry.tensorIndex] = (name,)
    return tensors, {index: names for index, names in both.items() if names}


def _check_results(model: Any, sample: Sample, found: Mapping[int, tuple[str, ...]]) -> None:
    """The float file is what every accuracy is compared with: it must be the model.

    Raises:
        TraceError: an output of the file is not that of the model.
    """
    for entry in model.signatureDefs[0].outputs:
        index, value = entry.tensorIndex, sample.results[_text(entry)]
        is_float = model.subgraphs[0].tensors[index].type == FLOAT
        if is_float and value not in found.get(index, ()):
            raise TraceError(
                f"litert-torch converted the model to one that computes another '{value}'; the "
                "backends onnxruntime and openvino do without"
            )


def _give_biases(model: Any) -> None:
    """Layers without a bias get one of zeros: a correction may have to go there."""
    for operator in model.subgraphs[0].operators:
        place = BIASES.get(operator_of(model, operator))
        if place is not None:
            given = list(operator.inputs)
            if len(given) > place and given[place] >= 0:
                continue
            output = model.subgraphs[0].tensors[operator.outputs[0]]
            bias = np.zeros(int(output.shape[-1]), dtype=np.float32)
            given = [*given[:place], add_tensor(model, "", bias)]
            operator.inputs = np.array(given, dtype=np.int32)


def _separate_constants(model: Any, layers: Mapping[str, LayerPlace]) -> None:
    """Give every layer weights and a bias of its own: they are put on grids of their own."""
    graph = model.subgraphs[0]
    readers = Counter(
        graph.tensors[index].buffer
        for operator in graph.operators
        for index in operator.inputs
        if index >= 0
    )
    for place in layers.values():
        operator = graph.operators[place.operator]
        given = list(operator.inputs)
        kind = operator_of(model, operator)
        for position in (LAYERS[kind], *([BIASES[kind]] if kind in BIASES else [])):
            tensor = graph.tensors[given[position]]
            constant = read_array(model, tensor)
            if constant is not None and readers[tensor.buffer] > 1:
                given[position] = add_tensor(model, "", constant)
        operator.inputs = given


def _sign(model: Any, sample: Sample) -> None:
    """The signature names inputs and outputs as the torch graph does.

    The converter numbers them: `args_0`, `output_0`.
    """
    signature = model.signatureDefs[0]
    for entries, names in ((signature.inputs, sample.inputs), (signature.outputs, sample.results)):
        numbers = [bytes(item.name).rpartition(b"_")[2] for item in entries]
        if len(numbers) != len(names) or not all(number.isdigit() for number in numbers):
            raise TraceError(
                f"litert-torch left {len(numbers)} of {len(names)} inputs or outputs of the model; "
                "the backends onnxruntime and openvino do without"
            )
        ordered = sorted(zip(map(int, numbers), entries, strict=True), key=lambda pair: pair[0])
        for (_, entry), name in zip(ordered, names, strict=True):
            entry.name = name.encode()
    # what a model gives twice is given once: the quantizer would take it off its grid twice
    graph = model.subgraphs[0]
    graph.outputs = list(dict.fromkeys(map(int, graph.outputs)))
    named = sorted(signature.outputs, key=lambda item: list(sample.results).index(_text(item)))
    signature.outputs = list({item.tensorIndex: item for item in reversed(named)}.values())[::-1]


def _text(entry: Any) -> str:
    return text_of(entry.name)


def _run(model: Any, inputs: Mapping[str, Array]) -> dict[int, Array]:
    """Every float tensor that the file computes for one sample."""
    try:
        interpreter = _load(serialize(model))
        kinds = {entry["index"]: entry["dtype"] for entry in interpreter.get_input_details()}
        for entry in model.signatureDefs[0].inputs:
            value = inputs[_text(entry)]
            # the converter makes int32 of int64
            interpreter.set_tensor(entry.tensorIndex, value.astype(kinds[entry.tensorIndex]))
        interpreter.invoke()
    except (RuntimeError, ValueError) as error:  # an operator that it has no kernel for
        raise TraceError(f"LiteRT cannot run the converted model: {explain(error)}") from error
    graph = model.subgraphs[0]
    made = {int(i) for operator in graph.operators for i in operator.outputs}
    made |= {int(i) for i in graph.inputs}
    return {
        index: interpreter.get_tensor(index) for index in made if graph.tensors[index].type == FLOAT
    }


def _load(content: bytes) -> Interpreter:
    # the plain kernels: XNNPACK keeps its inner tensors to itself
    with silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that keeping all tensors is for debugging
        interpreter = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
    return interpreter


def _match(tensors: Mapping[int, Array], values: Mapping[str, Array]) -> dict[int, tuple[str, ...]]:
    by_size: dict[int, list[tuple[str, Array]]] = defaultdict(list)
    for name, value in values.items():
        by_size[value.size].append((name, np.sort(value, axis=None)))
    found = {}
    for index, tensor in tensors.items():
        ordered = np.sort(tensor, axis=None)
        names = tuple(name for name, other in by_size[tensor.size] if _is_same(ordered, other))
        if names:
            found[index] = names
    return found


def _is_same(one: Array, other: Array) -> bool:
    """Number for number; infinite where the other is, and no number where the other is none."""
    is_finite = np.isfinite(other)
    if not np.array_equal(one[~is_finite], other[~is_finite], equal_nan=True):
        return False
    one, other = one[is_finite], other[is_finite]
    scale = float(max(np.abs(other).max(initial=0.0), 1e-12))
    return bool(np.abs(one - other).max(initial=0.0) <= _TOLERANCE * scale)


def _find_layout(tensor: Array, value: Array) -> str:
    """What has to be said behind a value's name: how its tensor is laid out."""
    if tensor.shape == value.shape and _is_same(tensor, value):
        return ""
    if tensor.ndim == value.ndim == 4:
        last = value.transpose(0, 2, 3, 1)
        if tensor.shape == last.shape and _is_same(tensor, last):
            return CHANNELS_LAST
    return "/moved"


def _restore_layers(
    model: Any, sample: Sample, values: Mapping[int, tuple[str, ...]], tensors: Mapping[int, Array]
) -> bool:
    """Give linear layers their own weights back; whether there were any to be given back.

    The converter multiplies those of a layer norm into the layers behind it, which then read what
    comes before the norm's scale and shift, and the bias of one layer into that of the next, which
    then reads what comes before it. Where what a layer reads is still there, since others read it
    too, the layer reads that again: its result is the same.
    """
    graph, is_changed = model.subgraphs[0], False
    makers = {int(i): n for n, item in enumerate(graph.operators) for i in item.outputs}
    for number, operator in enumerate(graph.operators):
        if operator_of(model, operator) != "FULLY_CONNECTED":
            continue
        made = {*values.get(int(operator.outputs[0]), ())}
        layer = next((name for name, value in sample.outputs.items() if value in made), None)
        stored = read_array(model, graph.tensors[operator.inputs[1]])
        if layer is None or stored is None or stored.shape != sample.weights[layer].shape:
            continue
        reads_named = bool(values.get(int(operator.inputs[0])))
        if reads_named and np.array_equal(stored, sample.weights[layer]):
            continue
        sources = [
            index
            for index, names in values.items()
            if sample.sources[layer] in names
            and makers.get(index, -1) < number
            and np.array_equal(tensors[index].shape, graph.tensors[operator.inputs[0]].shape)
        ]
        if sources:
            bias = sample.biases.get(layer, np.zeros(len(stored), dtype=np.float32))
            operator.inputs = [
                sources[0],
                add_tensor(model, "", sample.weights[layer]),
                add_tensor(model, "", bias),
            ]
            is_changed = True
    return is_changed


def _find_layers(model: Any, sample: Sample) -> dict[str, LayerPlace]:
    found: dict[str, LayerPlace] = {}
    taken: set[int] = set()
    constants, tables = {}, set()
    for index, operator in enumerate(model.subgraphs[0].operators):
        name = operator_of(model, operator)
        if name in LAYERS:
            tensor = model.subgraphs[0].tensors[operator.inputs[LAYERS[name]]]
            constants[index] = read_array(model, tensor)
            tables |= {index} if name in TABLES else set()
    for layer, weight in sample.weights.items():
        for index, constant in constants.items():
            if constant is None or index in taken or constant.size != weight.size:
                continue
            if (index in tables) != (layer in sample.tables):  # they may share their weights
                continue
            turned = _find_turn(weight, constant)
            if turned is not None:
                found[layer] = LayerPlace(index, *turned)
                taken.add(index)
                break
    return found


def _find_turn(weight: Array, constant: Array) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shape and the order of axes by which weights become a file's constant."""
    shape = weight.shape
    if weight.ndim < constant.ndim:
        shape = (*shape[:2], *[1] * (constant.ndim - weight.ndim), *shape[2:])
    if len(shape) != constant.ndim:
        return None
    wide = weight.reshape(shape)
    for axes in itertools.permutations(range(len(shape))):
        turned = wide.transpose(axes)
        if turned.shape == constant.shape and np.array_equal(turned, constant):
            return tuple(map(int, shape)), axes
    return None


def _name(model: Any, values: Mapping[int, str], layers: Mapping[str, LayerPlace]) -> None:
    """Short names that say what a tensor is: the converter's are long, and say little."""
    graph = model.subgraphs[0]
    names = dict(values)
    for layer, place in layers.items():
        operator = graph.operators[place.operator]
        kind = operator_of(model, operator)
        names[int(operator.inputs[LAYERS[kind]])] = layer + WEIGHT_SUFFIX
        if kind in BIASES:
            names[int(operator.inputs[BIASES[kind]])] = f"{layer}.bias"
    for entry in model.signatureDefs[0].inputs:
        names[entry.tensorIndex] = _text(entry)
    seen: set[str] = set()
    for index, tensor in enumerate(graph.tensors):
        name = names.get(index, f"t{index}")
        while name in seen:
            name += "_"
        seen.add(name)
        tensor.name = name.encode()
