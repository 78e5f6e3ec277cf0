"""The kernel templates of CPUs."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.template import KernelTemplate
from graphopt.backends.cpu.attention import FusedAttention
from graphopt.backends.cpu.batched_matmul import BatchedMatmul
from graphopt.backends.cpu.conv2d_direct import DirectConv2d
from graphopt.backends.cpu.conv2d_winograd import WinogradConv2d
from graphopt.backends.cpu.conv_transpose import PatchConvTranspose2d, PhasedConvTranspose2d
from graphopt.backends.cpu.depthwise import DepthwiseConv2d, PlainDepthwiseConv2d
from graphopt.backends.cpu.grouped import GroupedConv2d, GroupedPointwiseConv2d
from graphopt.backends.cpu.layout_copy import LayoutCopy
from graphopt.backends.cpu.lrn import BlockedLrn
from graphopt.backends.cpu.matmul import PackedMatmul
from graphopt.backends.cpu.pooling import GlobalPool, PlainWindowPool, WindowPool
from graphopt.backends.cpu.recurrent import Recurrent
from graphopt.backends.cpu.reductions import ColumnReduction, RowReduction
from graphopt.backends.cpu.roi_align import VectorRoiAlign
from graphopt.backends.cpu.rows import ColumnSoftmax, RowNorm, RowSoftmax
from graphopt.backends.cpu.strassen import StrassenConv2d, StrassenMatmul

TEMPLATES: tuple[KernelTemplate[Any], ...] = (
    DirectConv2d(),
    WinogradConv2d(),
    StrassenConv2d(),
    PatchConvTranspose2d(),
    PhasedConvTranspose2d(),
    DepthwiseConv2d(),
    PlainDepthwiseConv2d(),
    GroupedConv2d(),
    GroupedPointwiseConv2d(),
    PackedMatmul(),
    StrassenMatmul(),
    BatchedMatmul(),
    WindowPool(),
    PlainWindowPool(),
    GlobalPool(),
    BlockedLrn(),
    LayoutCopy(),
    RowSoftmax(),
    ColumnSoftmax(),
    RowNorm(),
    RowReduction(),
    ColumnReduction(),
    FusedAttention(),
    VectorRoiAlign(),
    Recurrent(),
)
"""In no particular order: the cheapest that can compute a call is taken."""
