"""Instructions that sum the products of neighbouring elements: vdpbf16ps, bfdot, vpmaddwd and those for bytes.

TVM's types can't express their operands, so each is a function in LLVM IR that takes vectors of 32-bit integers, each lane a group
of neighbouring elements, and is inlined into the kernel that brings it along.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.ir.dtypes import DType


@dataclass(frozen=True)
class DotProduct:
    """An instruction that adds the products of groups of neighbouring elements to sums of 32 bits.

    Attributes:
        name: by which configurations call it.
        dtype: of the elements on the left, which are broadcast.
        right: of those on the right.
        group: how many fill 32 bits.
        sum: TVM's name of the type of sums.
        available: whether a target has it.
        text: LLVM IR of the function ``name`` for a number of lanes.
        reads_bytes: whether groups of the right-hand side may also be signed bytes, which are widened when they are loaded.
        temporaries: registers for products that a second instruction adds to the sum, and for operands.
        slots: float32 multiply-adds that take as long.
        by_lane: whether the group on the left may be a lane of a vector: then groups of several steps come with one load.
    """

    name: str
    dtype: DType
    right: DType
    group: int
    sum: str
    available: Callable[[Caps], bool]
    text: Callable[[str, int], str]
    temporaries: int = 0
    slots: float = 1.0
    by_lane: bool = False
    reads_bytes: bool = False

    def function(self, lanes: int) -> str:
        """Name of the function for vectors of ``lanes`` sums."""
        return f"graphopt_{self.name}_{lanes}"

    @contextmanager
    def imported(self, lanes: int) -> Iterator[None]:
        """Emits what is written inside with the function at hand."""
        text = self.text(self.function(lanes), lanes)
        if self.reads_bytes:
            text += _of_bytes(self.function(lanes), lanes, text)
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", text):
            yield

    def __call__(self, sums: Any, left: Any, right: Any, lanes: int) -> Any:
        """``sums`` plus the products of two vectors of ``lanes`` groups, 32-bit integers; on the right also pairs of bytes."""
        name = self.function(lanes)
        if str(right.ty.dtype) == f"int16x{lanes}":
            name += _OF_BYTES
        return tirx.call_extern(f"{self.sum}x{lanes}", name, sums, left, right)


_OF_BYTES = "_bytes"


def _of_bytes(name: str, lanes: int, text: str) -> str:
    """The function that takes pairs of signed bytes on the right, by the one of ``text`` that takes pairs of 16 bits."""
    i32, i16 = f"<{lanes} x i32>", f"<{lanes} x i16>"
    features = re.findall(r'"target-features"="[^"]*"', text)[-1]  # LLVM inlines only where the caller has them too
    return f"""
define {i32} @{name}{_OF_BYTES}({i32} %sums, {i32} %a, {i16} %b) alwaysinline {features} {{
  %x = bitcast {i16} %b to <{2 * lanes} x i8>
  %w = sext <{2 * lanes} x i8> %x to <{2 * lanes} x i16>
  %y = bitcast <{2 * lanes} x i16> %w to {i32}
  %r = call {i32} @{name}({i32} %sums, {i32} %a, {i32} %y)
  ret {i32} %r
}}
"""


def _dpbf16(name: str, lanes: int) -> str:
    bits, two = 32 * lanes, 2 * lanes
    intrinsic = f"@llvm.x86.avx512bf16.dpbf16ps.{bits}"
    arguments = f"<{lanes} x float> %sums, <{lanes} x i32> %a, <{lanes} x i32> %b"
    return f"""
declare <{lanes} x float> {intrinsic}(<{lanes} x float>, <{two} x bfloat>, <{two} x bfloat>)
define <{lanes} x float> @{name}({arguments}) alwaysinline "target-features"="+avx512bf16,+avx512f,+avx512bw,+avx512vl" {{
  %x = bitcast <{lanes} x i32> %a to <{two} x bfloat>
  %y = bitcast <{lanes} x i32> %b to <{two} x bfloat>
  %r = call <{lanes} x float> {intrinsic}(<{lanes} x float> %sums, <{two} x bfloat> %x, <{two} x bfloat> %y)
  ret <{lanes} x float> %r
}}
"""


VDPBF16PS = DotProduct(
    "vdpbf16ps", DType.bf16, DType.bf16, 2, "float32", lambda caps: caps.bf16 and caps.vector_bits == 512, _dpbf16
)
"""x86's bfloat16 dot product (AVX512-BF16): sums in float32, rounded to the nearest after each product; subnormals are 0."""


def _madd(name: str, lanes: int) -> str:
    """The addition is assembly: LLVM adds all products of an unrolled loop first where it may choose, and spills the sums."""
    two, i32 = 2 * lanes, f"<{lanes} x i32>"
    intrinsic, feature, addition = {
        4: ("@llvm.x86.sse2.pmadd.wd", "+sse2", '"paddd $2, $0", "=x,0,x"'),
        8: ("@llvm.x86.avx2.pmadd.wd", "+avx2", '"vpaddd $2, $1, $0", "=x,x,x"'),
        16: ("@llvm.x86.avx512.pmaddw.d.512", "+avx512bw", '"vpaddd $2, $1, $0", "=v,v,v"'),
    }[lanes]
    return f"""
declare {i32} {intrinsic}(<{two} x i16>, <{two} x i16>)
define {i32} @{name}({i32} %sums, {i32} %a, {i32} %b) alwaysinline "target-features"="{feature}" {{
  %x = bitcast {i32} %a to <{two} x i16>
  %y = bitcast {i32} %b to <{two} x i16>
  %p = call {i32} {intrinsic}(<{two} x i16> %x, <{two} x i16> %y)
  %r = call {i32} asm {addition}({i32} %sums, {i32} %p)
  ret {i32} %r
}}
"""


VPMADDWD = DotProduct(
    "vpmaddwd",
    DType.i16,
    DType.i16,
    2,
    "int32",
    lambda caps: caps.madd,
    _madd,
    temporaries=1,
    slots=1.5,
    reads_bytes=True,
)
"""x86's sum of two products of 16-bit integers (SSE2, AVX2, AVX-512BW): exact but for -32768 squared twice.

Zen 3 reaches 129 of the 192 GOP/s that two a cycle were (convolution of 64 channels, 3x3)."""


def _vnni(instruction: str, name: str, lanes: int) -> str:
    """On AVX-VNNI as assembly: LLVM takes the intrinsic for so cheap there that it unrolls loops until broadcasts are spilled."""
    i32 = f"<{lanes} x i32>"
    intrinsic = f"@llvm.x86.avx512.{instruction}.{32 * lanes}"
    if lanes == 16:
        feature, call = "+avx512vnni", f"{intrinsic}({i32} %sums, {i32} %a, {i32} %b)"
    else:
        feature, call = (
            "+avxvnni",
            f'asm "{{vex}} {instruction} $3, $2, $0", "=x,0,x,x"({i32} %sums, {i32} %a, {i32} %b)',
        )
    return f"""
declare {i32} {intrinsic}({i32}, {i32}, {i32})
define {i32} @{name}({i32} %sums, {i32} %a, {i32} %b) alwaysinline "target-features"="{feature}" {{
  %r = call {i32} {call}
  ret {i32} %r
}}
"""


VPDPWSSD = DotProduct(
    "vpdpwssd",
    DType.i16,
    DType.i16,
    2,
    "int32",
    lambda caps: caps.vnni and caps.madd,
    partial(_vnni, "vpdpwssd"),
    reads_bytes=True,
)
"""The same with the addition to a sum (AVX-512 VNNI, AVX-VNNI), which it doesn't saturate."""

VPDPBUSD = DotProduct(
    "vpdpbusd", DType.u8, DType.i8, 4, "int32", lambda caps: caps.vnni and caps.madd, partial(_vnni, "vpdpbusd")
)
"""x86's sum of four products of unsigned by signed bytes (AVX-512 VNNI, AVX-VNNI): exact, it saturates nowhere."""


def _smlal(name: str, lanes: int) -> str:
    """Two multiplications with addition: of the first elements of pairs, and of the second ones."""
    i32, i16, half = f"<{lanes} x i32>", f"<{2 * lanes} x i16>", f"<{lanes} x i16>"
    intrinsic = f"@llvm.aarch64.neon.smull.v{lanes}i32"
    lines, total = [], "%sums"
    for part in range(2):
        places = f"<{lanes} x i32> <{', '.join(f'i32 {2 * lane + part}' for lane in range(lanes))}>"
        lines += [
            f"%x{part} = shufflevector {i16} %x, {i16} poison, {places}",
            f"%y{part} = shufflevector {i16} %y, {i16} poison, {places}",
            f"%p{part} = call {i32} {intrinsic}({half} %x{part}, {half} %y{part})",
            f"%s{part} = add {i32} {total}, %p{part}",
        ]
        total = f"%s{part}"
    body = "\n  ".join(lines)
    return f"""
declare {i32} {intrinsic}({half}, {half})
define {i32} @{name}({i32} %sums, {i32} %a, {i32} %b) alwaysinline "target-features"="+neon" {{
  %x = bitcast {i32} %a to {i16}
  %y = bitcast {i32} %b to {i16}
  {body}
  ret {i32} {total}
}}
"""


SMLAL = DotProduct(
    "smlal",
    DType.i16,
    DType.i16,
    2,
    "int32",
    lambda caps: caps.smlal,
    _smlal,
    temporaries=8,
    slots=4.0,
    reads_bytes=True,
)
"""ARM's products of 16-bit integers, two instructions a pair, each on one of the two pipelines that multiply float32 as fast.

No gain over products in float32, which are exact as well where sums are small; but Winograd's convolution needs them."""


def _neon(instruction: str, feature: str, first: str, second: str, name: str, lanes: int) -> str:
    """LLVM takes a lane of the second vector of signed bytes, and of the first one where that is unsigned."""
    i32, i8 = f"<{lanes} x i32>", f"<{4 * lanes} x i8>"
    intrinsic = f"@llvm.aarch64.neon.{instruction}.v{lanes}i32.v{4 * lanes}i8"
    return f"""
declare {i32} {intrinsic}({i32}, {i8}, {i8})
define {i32} @{name}({i32} %sums, {i32} %a, {i32} %b) alwaysinline "target-features"="+neon,{feature}" {{
  %x = bitcast {i32} %a to {i8}
  %y = bitcast {i32} %b to {i8}
  %r = call {i32} {intrinsic}({i32} %sums, {i8} %{first}, {i8} %{second})
  ret {i32} %r
}}
"""


USDOT = DotProduct(
    "usdot",
    DType.u8,
    DType.i8,
    4,
    "int32",
    lambda caps: caps.i8mm and not caps.sm,
    partial(_neon, "usdot", "+i8mm", "x", "y"),
    temporaries=4,
    by_lane=True,
)
"""ARM's sum of four products of unsigned by signed bytes (Armv8.6, FEAT_I8MM).

LLVM keeps some broadcast groups in registers of their own."""

SDOT = DotProduct(
    "sdot",
    DType.i8,
    DType.i8,
    4,
    "int32",
    lambda caps: caps.dotprod and not caps.sm,
    partial(_neon, "sdot", "+dotprod", "y", "x"),
    temporaries=4,
    by_lane=True,
)
"""ARM's sum of four products of signed bytes (Armv8.2, FEAT_DotProd)."""


def _bfdot(name: str, lanes: int) -> str:
    sums, bf16 = f"<{lanes} x float>", f"<{2 * lanes} x bfloat>"
    intrinsic = f"@llvm.aarch64.neon.bfdot.v{lanes}f32.v{2 * lanes}bf16"
    return f"""
declare {sums} {intrinsic}({sums}, {bf16}, {bf16})
define {sums} @{name}({sums} %sums, <{lanes} x i32> %a, <{lanes} x i32> %b) alwaysinline "target-features"="+neon,+bf16" {{
  %x = bitcast <{lanes} x i32> %a to {bf16}
  %y = bitcast <{lanes} x i32> %b to {bf16}
  %r = call {sums} {intrinsic}({sums} %sums, {bf16} %y, {bf16} %x)
  ret {sums} %r
}}
"""


BFDOT = DotProduct(
    "bfdot",
    DType.bf16,
    DType.bf16,
    2,
    "float32",
    lambda caps: caps.bf16 and caps.smlal,
    _bfdot,
    temporaries=4,
    by_lane=True,
)
"""ARM's sum of two products of bfloat16 (Armv8.6, FEAT_BF16): they are rounded to odd before they are added, and subnormals are 0.

LLVM 22 copies lanes to vectors first."""

DOT_PRODUCTS = {dot.name: dot for dot in (VDPBF16PS, BFDOT, VPDPBUSD, VPDPWSSD, VPMADDWD, USDOT, SDOT, SMLAL)}
"""By name."""


def multiplied_together(name: str) -> int:
    """Elements that the dot product of a configuration takes at once: 1 where it names none."""
    return DOT_PRODUCTS[name].group if name else 1


def temporaries_of(name: str) -> int:
    """Registers that the dot product of a configuration needs beside sums and operands."""
    return DOT_PRODUCTS[name].temporaries if name else 0


def slots_of(name: str) -> float:
    """Float32 multiply-adds that take as long as one dot product of a configuration."""
    return DOT_PRODUCTS[name].slots if name else 1.0


def outruns_float(name: str) -> bool:
    """Whether the dot product of a configuration multiplies faster than instructions for float32."""
    return bool(name) and slots_of(name) < multiplied_together(name)


def importing(dot: DotProduct | None, lanes: int) -> AbstractContextManager[None]:
    """Emits what is written inside with the function of a dot product at hand, if there is one."""
    return nullcontext() if dot is None else dot.imported(lanes)
