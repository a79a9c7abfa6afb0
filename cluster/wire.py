"""What vectors travel as: float32, or bfloat16, which halves the bytes and keeps 8 bits of the fraction."""

import numpy as np

from cluster.aggregation import WireType

DIRECT_BYTES = 1024**2  # up to this size a vector travels inside its message, larger ones through shared memory
_NAN = np.uint16(0x7FC0)


def encode(vector: np.ndarray, wire: WireType) -> np.ndarray:
    """A float32 vector as it travels: itself, or its bfloat16 bits in uint16, rounded to nearest with ties to even.

    >>> encode(np.array([1.0, 3.14159274], np.float32), "bfloat16").tolist() == [0x3F80, 0x4049]
    True
    """
    if wire == "float32":
        return vector
    bits = np.ascontiguousarray(vector).view(np.uint32)
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype(
        np.uint16
    )
    return np.where(np.isnan(vector), _NAN, rounded)


def decode(array: np.ndarray) -> np.ndarray:
    """The float32 vector of what travelled, told apart by its dtype."""
    if array.dtype == np.float32:
        return array
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
