"""All passes by name. Importing a pass's module registers it; one that is not imported here does not exist for users."""

from __future__ import annotations

from graphopt.passes.canonical import (  # noqa: F401
    arithmetic,
    casts,
    conv1d,
    cse,
    dead_code,
    dequantized_moves,
    einsum,
    expand_functions,
    identities,
    integer_products,
    merge_constants,
    transposes,
    unroll_loops,
    views,
    weight_zero_points,
)
from graphopt.passes.fold import affine, batch_norm, constants, gemm, pad, subnormals  # noqa: F401
from graphopt.passes.precision import cast_floats  # noqa: F401
from graphopt.passes.prune import channels  # noqa: F401
from graphopt.passes.prune.dead import dead_channels  # noqa: F401
from graphopt.passes.prune.sparse import sparsity  # noqa: F401
from graphopt.passes.quant import move  # noqa: F401
from graphopt.passes.recognise import activations, attention, gelu, norms, packed_attention, softmax  # noqa: F401
from graphopt.rewrite.passes import Pass, registered_passes
from graphopt.rewrite.spec import PassInfo, parse_spec, pass_info


def known_passes() -> dict[str, type[Pass]]:
    """Every pass by name, sorted."""
    return registered_passes()


def list_passes() -> list[PassInfo]:
    """Every pass with its options."""
    return [pass_info(cls) for cls in known_passes().values()]


def parse_pass(text: str) -> Pass:
    """The pass that ``text`` describes.

    Raises:
        UserError: malformed text, unknown pass, unknown option or bad value; with a suggestion where one is close.
    """
    return parse_spec(text, known_passes())
