"""Inner values of a file as outputs, to see where it parts from the model it came from."""

from collections.abc import Collection

import onnx

__all__ = ["expose_values"]


def expose_values(model: onnx.ModelProto, names: Collection[str]) -> dict[str, str]:
    """Make values of the float graph outputs of its file, in place.

    Args:
        model: a file in QDQ form.
        names: values; those that the file does not have are left out.

    Returns:
        The outputs' names by value: the value itself, or what is left of it on its grid.
    """
    made = {name for node in model.graph.node for name in node.output}
    found = {}
    for name in names:
        on_grid = f"{name}_dequantized"
        output = on_grid if on_grid in made else name
        if output in made:
            found[name] = output
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
        for output in found.values()
        if output not in known
    )
    return found
