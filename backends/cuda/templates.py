"""The kernel templates of GPUs."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.template import KernelTemplate
from graphopt.backends.cuda.batched_matmul import GemmBatched
from graphopt.backends.cuda.conv import GemmConv
from graphopt.backends.cuda.conv_transpose import GemmConvTranspose
from graphopt.backends.cuda.depthwise import DepthwiseConv
from graphopt.backends.cuda.matmul import GemmMatmul
from graphopt.backends.cuda.pooling import WindowPool
from graphopt.backends.cuda.rows import ColumnSoftmax, RowNorm, RowReduction, RowSoftmax

TEMPLATES: tuple[KernelTemplate[Any], ...] = (
    GemmConv(),
    GemmConvTranspose(),
    DepthwiseConv(),
    GemmMatmul(),
    GemmBatched(),
    WindowPool(),
    RowSoftmax(),
    ColumnSoftmax(),
    RowNorm(),
    RowReduction(),
)
"""In no particular order: the cheapest that can compute a call is taken."""
