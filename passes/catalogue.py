"""Imports every pass so that it is registered. One line a file; a pass that is not here does not exist for users."""

from graphopt.passes.canonical import (  # noqa: F401
    arithmetic,
    casts,
    conv1d,
    cse,
    dead_code,
    identities,
    merge_constants,
    transposes,
    views,
)
from graphopt.passes.fold import affine, batch_norm, constants, gemm, pad, subnormals  # noqa: F401
from graphopt.passes.fuse import activations, attention, gelu, norms, softmax  # noqa: F401
from graphopt.passes.prune import channels  # noqa: F401
from graphopt.passes.prune.dead import dead_channels  # noqa: F401
from graphopt.passes.prune.sparse import sparsity  # noqa: F401
