"""4-bit integers, two to a byte."""

import numpy as np
import numpy.typing as npt
import onnx

__all__ = ["pack_int4", "packed_tensor", "unpack_int4"]


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
