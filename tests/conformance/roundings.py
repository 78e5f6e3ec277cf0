"""Cases whose results may be rounded otherwise than expected, and why: no other case may come out as ``rounding``."""

from __future__ import annotations

from fnmatch import fnmatchcase

ROUNDINGS = {
    "test_attention_*_bf16*": (
        "the suite's own expected values are computed in bfloat16 step by step: scores, softmax and sums, each rounded"
    ),
    "test_attention_*_qk_matmul*_*float16": (
        "queries and keys are scaled by the root of the scale each, and rounded, as the operator's function says"
    ),
    "test_batchnorm_*float16": "constant statistics, scale and bias become two constants of the type, one of which may be large",
    "test_causal_conv_with_state_s*_*float16": "the convolution's result is rounded before its activation, as the function says",
    "test_sce_*float16": "log probabilities, weighted losses and their sums are rounded one by one, as the function says",
    "test_rotary_embedding*_*float16": "products are rounded before they are added, as the operator's function says",
    "test_dft_inverse*": "in float32, elements that should be 0 are what is left of sums: under 1e-6 of the largest",
}
"""By patterns of names."""


def explained(name: str) -> bool:
    """Whether a case is known to be rounded otherwise."""
    return any(fnmatchcase(name, pattern) for pattern in ROUNDINGS)
