"""Which passes run at which optimisation level, in named phases."""

from __future__ import annotations

from graphopt.errors import UserError
from graphopt.ir.levels import LEVELS, levels_text
from graphopt.passes.canonical.arithmetic import RemoveNeutralArithmetic
from graphopt.passes.canonical.casts import MergeCastChains
from graphopt.passes.canonical.conv1d import LowerConv1d
from graphopt.passes.canonical.cse import CommonSubexpressions
from graphopt.passes.canonical.dead_code import DeadCode
from graphopt.passes.canonical.dequantized_moves import MoveIntegers
from graphopt.passes.canonical.einsum import LowerEinsum
from graphopt.passes.canonical.expand_functions import ExpandFunctions
from graphopt.passes.canonical.identities import RemoveNoOps
from graphopt.passes.canonical.integer_products import LowerIntegerProducts
from graphopt.passes.canonical.merge_constants import MergeConstants
from graphopt.passes.canonical.transposes import MoveTransposes
from graphopt.passes.canonical.unroll_loops import UnrollLoops
from graphopt.passes.canonical.views import MergeViewChains
from graphopt.passes.canonical.weight_zero_points import SubtractZeroPoints
from graphopt.passes.fold.affine import FoldAffine
from graphopt.passes.fold.batch_norm import FoldBatchNorm, LowerBatchNorm
from graphopt.passes.fold.constants import FoldConstants
from graphopt.passes.fold.gemm import MakeGemm
from graphopt.passes.fold.pad import FoldPad
from graphopt.passes.fold.subnormals import FlushSubnormals
from graphopt.passes.prune.dead.dead_channels import RemoveDeadChannels
from graphopt.passes.quant.move import MoveQuantization
from graphopt.passes.recognise.activations import RecogniseActivations
from graphopt.passes.recognise.attention import RecogniseAttention
from graphopt.passes.recognise.gelu import RecogniseGelu
from graphopt.passes.recognise.norms import RecogniseNorms
from graphopt.passes.recognise.packed_attention import PackAttention
from graphopt.passes.recognise.softmax import RecogniseSoftmax
from graphopt.rewrite.pipeline import Phase, Pipeline

ROUNDS = 8
"""A phase that has not settled by then is left as it is: each round is correct by itself."""


def level_pipeline(level: int) -> Pipeline:
    """The pipeline of an optimisation level.

    Raises:
        UserError: no such level.
    """
    if level not in LEVELS:
        raise UserError(
            f"there is no optimisation level {level}",
            code="bad-level",
            hint=levels_text(),
        )
    phases: list[Phase] = []
    if level >= 1:
        phases.append(_canonical("canonicalise"))
    if level >= 2:
        # Before folding: a factor that belongs to a recognisable subgraph must not vanish into the weights before it.
        known = (
            LowerEinsum(),
            RecogniseGelu(),
            RecogniseActivations(),
            RecogniseSoftmax(),
            RecogniseNorms(),
            RecogniseAttention(),
            PackAttention(),
        )
        phases.append(Phase("recognise", (*known, *_canonical("").passes), ROUNDS))
        folding = (MoveTransposes(), MoveIntegers(), FoldPad(), FoldBatchNorm(), FoldAffine(), MakeGemm())
        phases.append(Phase("fold", (*folding, *_canonical("").passes), ROUNDS))
    if level >= 3:
        phases.append(Phase("reshuffle", (LowerBatchNorm(), FoldAffine(), *_canonical("").passes), ROUNDS))
    if level >= 2:
        phases.append(Phase("flush", (FlushSubnormals(),), 1))
    if level >= 3:
        # After folding and flushing, which make zeros; once more only where what became constant was computed meanwhile.
        # Kernels work on blocks of channels: multiples of 8 ran 1.3 times faster than what was left of ResNet-50 by itself.
        phases.append(Phase("prune", (RemoveDeadChannels(multiple=8), *_canonical("").passes), 2))
    if level >= 1:
        # Merged last: a weight shared by two nodes can't be folded into.
        phases.append(Phase("share", (MergeConstants(), CommonSubexpressions(), DeadCode()), 3))
    return Pipeline(tuple(phases))


EXPANDING_ROUNDS = 4
"""How often functions are expanded and loops unrolled before what is left is lowered as it is."""


def kernel_phases(level: int, *, clean_up: bool = True) -> tuple[Phase, ...]:
    """What compiling for a target adds to a level: every operator gets a form that has a kernel.

    An exported graph keeps its operators; so these phases are no part of ``level_pipeline``. What functions and loops leave
    behind (constants, casts, decided branches, maybe another loop's length) is cleaned up as at level 1.

    Args:
        level: the highest level that the graph has been through.
        clean_up: whether to clean up.
    """
    after = level_pipeline(1).phases if clean_up else ()
    phases = [Phase("expand", (ExpandFunctions(), UnrollLoops()), EXPANDING_ROUNDS, after)]
    if level >= 2:
        lowering = (LowerBatchNorm(), LowerConv1d(), LowerIntegerProducts(), MoveIntegers(), SubtractZeroPoints())
        phases.append(Phase("for-kernels", lowering))
        phases.append(Phase("bytes", (MoveQuantization(),), ROUNDS))
    return tuple(phases)


def _canonical(name: str) -> Phase:
    return Phase(
        name,
        (
            DeadCode(), FoldConstants(), RemoveNoOps(), MergeCastChains(), MergeViewChains(), RemoveNeutralArithmetic(),
            CommonSubexpressions(), DeadCode(),
        ),
        ROUNDS,
    )  # fmt: skip
