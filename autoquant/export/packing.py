"""Integers in a file, those of 4 bits two to a byte."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = ["WEIGHT_SUFFIX", "pack_int4", "packed_tensor", "store_integers", "unpack_int4"]

WEIGHT_SUFFIX = "_quantized"


def pack_int4(values: npt.NDArray[np.int8]) -> bytes:
    """Pack signed 4-bit integers, low nibble first (ONNX TensorProto.INT4 layout).

    Args:
        values: integers in -8..7, any shape, read in C order.

    Returns:
        ceil(n / 2) bytes; an odd count is padded with zero.
    """
    nibbles = values.reshape(-1).astype(np.uint8) & 0x0F
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return (nibbles[0::2] | (nibbles[1::2] << 4)).astype(np.uint8).tobytes()


def unpack_int4(raw: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """Inverse of `pack_int4`."""
    packed = np.frombuffer(raw, dtype=np.uint8)
    nibbles = np.stack([packed & 0x0F, packed >> 4], axis=1).reshape(-1)
    signed = (nibbles.astype(np.int8) ^ 8) - 8
    return signed[: int(np.prod(shape))].reshape(shape).astype(np.int8)


def packed_tensor(name: str, values: npt.NDArray[np.int8]) -> onnx.TensorProto:
    """An INT4 initializer held as raw bytes.

    `onnx.helper.make_tensor` would store one varint for each byte, which is no packing.
    """
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.INT4, dims=values.shape)
    tensor.raw_data = pack_int4(values)
    return tensor


def store_integers(
    name: str, values: npt.NDArray[np.int8], bits: int, *, pack: bool
) -> tuple[str, list[onnx.NodeProto], onnx.TensorProto]:
    """Weights as the file holds them, and as operators read them.

    Args:
        name: of the weight.
        values: on the grid of so many bits.
        bits: 8 or 4.
        pack: store 4-bit weights two to a byte behind a Cast.

    Returns:
        The name of the 8-bit value, what makes it, and the initializer.
    """
    stored = name + WEIGHT_SUFFIX
    if bits == 8 or not pack:
        return stored, [], numpy_helper.from_array(np.asarray(values, order="C"), stored)
    widened = f"{name}_int8"
    cast = helper.make_node(
        "Cast", [stored], [widened], name=f"{name}/widen", to=onnx.TensorProto.INT8
    )
    return widened, [cast], packed_tensor(stored, values)
