"""Imports every pass so that it is registered. One line a file; a pass that is not here does not exist for users."""

from graphopt.passes.canonical import (  # noqa: F401
    arithmetic,
    casts,
    cse,
    dead_code,
    identities,
    merge_constants,
    views,
)
from graphopt.passes.fold import affine, batch_norm, constants, gemm, pad  # noqa: F401
