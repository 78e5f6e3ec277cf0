"""Element types: one enum joining ONNX codes, numpy dtypes and printed names.

The codes are spelt out (a test compares them with onnx) so that running a compiled model needs no onnx.
"""

from __future__ import annotations

from enum import Enum

import ml_dtypes
import numpy as np


class DType(Enum):
    """Element type of a tensor. ``value`` is (printed name, ONNX code, numpy dtype, bits)."""

    f32 = ("f32", 1, np.dtype(np.float32), 32)
    f64 = ("f64", 11, np.dtype(np.float64), 64)
    f16 = ("f16", 10, np.dtype(np.float16), 16)
    bf16 = ("bf16", 16, np.dtype(ml_dtypes.bfloat16), 16)
    i8 = ("i8", 3, np.dtype(np.int8), 8)
    i16 = ("i16", 5, np.dtype(np.int16), 16)
    i32 = ("i32", 6, np.dtype(np.int32), 32)
    i64 = ("i64", 7, np.dtype(np.int64), 64)
    u8 = ("u8", 2, np.dtype(np.uint8), 8)
    u16 = ("u16", 4, np.dtype(np.uint16), 16)
    u32 = ("u32", 12, np.dtype(np.uint32), 32)
    u64 = ("u64", 13, np.dtype(np.uint64), 64)
    bool_ = ("bool", 9, np.dtype(np.bool_), 8)
    string = ("string", 8, np.dtype(object), 0)
    c64 = ("c64", 14, np.dtype(np.complex64), 64)
    c128 = ("c128", 15, np.dtype(np.complex128), 128)
    f8e4m3fn = ("f8e4m3fn", 17, np.dtype(ml_dtypes.float8_e4m3fn), 8)
    f8e4m3fnuz = ("f8e4m3fnuz", 18, np.dtype(ml_dtypes.float8_e4m3fnuz), 8)
    f8e5m2 = ("f8e5m2", 19, np.dtype(ml_dtypes.float8_e5m2), 8)
    f8e5m2fnuz = ("f8e5m2fnuz", 20, np.dtype(ml_dtypes.float8_e5m2fnuz), 8)
    i4 = ("i4", 22, np.dtype(ml_dtypes.int4), 4)
    u4 = ("u4", 21, np.dtype(ml_dtypes.uint4), 4)
    i2 = ("i2", 26, np.dtype(ml_dtypes.int2), 2)
    u2 = ("u2", 25, np.dtype(ml_dtypes.uint2), 2)
    f4e2m1 = ("f4e2m1", 23, np.dtype(ml_dtypes.float4_e2m1fn), 4)
    f8e8m0 = ("f8e8m0", 24, np.dtype(ml_dtypes.float8_e8m0fnu), 8)
    f6e2m3 = ("f6e2m3", 27, np.dtype(ml_dtypes.float6_e2m3fn), 6)
    f6e3m2 = ("f6e3m2", 28, np.dtype(ml_dtypes.float6_e3m2fn), 6)
    other = ("other", -1, np.dtype(object), 0)

    @property
    def onnx(self) -> int:
        """The TensorProto.DataType code."""
        return int(self.value[1])

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy dtype that holds one element."""
        dtype: np.dtype[np.generic] = self.value[2]
        return dtype

    @property
    def bits(self) -> int:
        """Bits of one element (0 where there is no fixed size)."""
        return int(self.value[3])

    @property
    def is_float(self) -> bool:
        """Whether arithmetic on it is floating point."""
        return self.value[0][0] in "fb" and self is not DType.bool_

    @property
    def is_int(self) -> bool:
        """Whether it is a signed or unsigned integer (bool is neither)."""
        return self.value[0][0] in "iu"

    @property
    def is_signed(self) -> bool:
        """Whether negative values can be represented."""
        return self.is_float or self.value[0][0] == "i"

    def __str__(self) -> str:
        return str(self.value[0])

    @staticmethod
    def from_onnx(code: int) -> DType:
        """The member for a TensorProto.DataType code; ``DType.other`` for codes this version does not compute with."""
        return _BY_ONNX.get(code, DType.other)

    @staticmethod
    def from_numpy(dtype: np.dtype[np.generic]) -> DType:
        """The member whose numpy dtype is given; ``DType.other`` if there is none."""
        if dtype.kind in "OUS":
            return DType.string
        return _BY_NUMPY.get(dtype.newbyteorder("="), DType.other)


_BY_ONNX = {d.onnx: d for d in DType if d is not DType.other}
_BY_NUMPY = {d.numpy: d for d in DType if d not in (DType.other, DType.string)}
