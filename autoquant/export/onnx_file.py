"""ONNX files: passport, stored precisions, inner values."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from autoquant.errors import ArtifactError
from autoquant.export.expose import expose_values
from autoquant.export.passport import KEY, from_text, to_text
from autoquant.export.readback import read_precisions, read_weights

__all__ = ["OnnxFormat", "graph_digest", "load_model", "read_passport", "write_passport"]


def load_model(content: bytes) -> onnx.ModelProto:
    """Parse an ONNX file.

    Raises:
        ArtifactError: truncated, or not ONNX at all.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker share no base class
        raise ArtifactError("not a whole ONNX file (truncated, or of another format)") from error
    return model


def graph_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of the file without its metadata, hexadecimal."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def write_passport(model: onnx.ModelProto, passport: Mapping[str, Any]) -> bytes:
    """The file with a passport in its metadata, in place of any other."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [entry for entry in copy.metadata_props if entry.key != KEY]
    del copy.metadata_props[:]
    copy.metadata_props.extend(kept)
    copy.metadata_props.add(key=KEY, value=to_text(passport))
    return bytes(copy.SerializeToString(deterministic=True))


def read_passport(model: onnx.ModelProto) -> dict[str, Any]:
    """The passport of a model, empty if it carries none.

    Raises:
        ArtifactError: a passport that is damaged.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    return {} if text is None else from_text(text)


class OnnxFormat:
    """See `ModelFormat`."""

    suffix = ".onnx"

    def digest(self, content: bytes) -> str:
        """SHA-256 of the file without its metadata."""
        return graph_digest(load_model(content))

    def read_passport(self, content: bytes) -> dict[str, Any]:
        """See `read_passport`."""
        return read_passport(load_model(content))

    def write_passport(self, content: bytes, passport: Mapping[str, Any]) -> bytes:
        """See `write_passport`."""
        return write_passport(load_model(content), passport)

    def read_precisions(self, content: bytes) -> dict[str, str]:
        """See `readback.read_precisions`."""
        return read_precisions(load_model(content))

    def read_weights(self, content: bytes) -> dict[str, npt.NDArray[np.float32]]:
        """See `readback.read_weights`."""
        return read_weights(load_model(content))

    def expose(self, content: bytes, values: Collection[str]) -> tuple[bytes, dict[str, str]]:
        """See `expose.expose_values`."""
        model = load_model(content)
        names = expose_values(model, values)
        return bytes(model.SerializeToString()), names

    def restore(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """As they are: ONNX has the float graph's layout."""
        return values

    def read_io(self, content: bytes) -> dict[str, Any]:
        """Inputs and outputs are what those of the float model are."""
        return {}

    def values_on_grid(self, content: bytes) -> frozenset[str]:
        """What a QuantizeLinear reads, or leaves."""
        nodes = load_model(content).graph.node
        return frozenset(
            node.output[0].removesuffix("_q") for node in nodes if node.op_type == "QuantizeLinear"
        )

    def outputs(self, content: bytes) -> list[str]:
        """Names of the graph's outputs."""
        return [value.name for value in load_model(content).graph.output]
