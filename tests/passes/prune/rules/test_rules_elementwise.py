"""Element-wise operators, normalisations, reductions and quantisation: which channels go together, which stay and why."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.prune.groups import PruneGroups
from tests.support.onnx_graphs import graph_of, rand
from tests.support.pruning import check_pruning, sandwich


def reason(groups: PruneGroups, layer: str) -> str:
    """Why a layer's output channels stay."""
    return "; ".join(f.reason for f in groups.frozen if f.name == layer)


UNARY = {
    "relu": "t = Relu(h)",
    "exp is one at zero": "t = Exp(h)",
    "log of zero": "a = Abs(h)\nt = Log(a)",
    "reciprocal of zero": "r = Reciprocal(h)\nt = Tanh(r)",
    "clip": "t = Clip(h, low, high)",
    "cast": "d = Cast<to=11>(h)\nt = Cast<to=1>(d)",
    "cast like": "t = CastLike(h, low)",
    "dropout": "t, m = Dropout(h)",
    "dropout's mask": "d, m = Dropout(h)\nf = Cast<to=1>(m)\nt = Add(d, f)",
    "is nan": "n = IsNaN(h)\nf = Cast<to=1>(n)\nt = Add(h, f)",
    "not": "p = Greater(h, low)\nq = Not(p)\nt = Cast<to=1>(q)",
}


@pytest.mark.parametrize("body", UNARY.values(), ids=UNARY)
def test_unary_passes_channels(body: str) -> None:
    graph = sandwich(body, low=np.float32(-0.5), high=np.float32(0.5))
    check_pruning(graph, {"h": 8})


BROADCAST = {
    "bias of channels": ("t = Add(h, c)", (8, 1, 1)),
    "bias with batch axis": ("t = Add(h, c)", (1, 8, 1, 1)),
    "constant first": ("t = Sub(c, h)", (8, 1, 1)),
    "divided by a constant": ("t = Div(h, c)", (8, 6, 6)),
    "divides a constant": ("q = Div(c, h)\nt = Tanh(q)", (8, 1, 1)),
    "scalar": ("t = Mul(h, c)", ()),
    "one element": ("t = Mul(h, c)", (1, 1, 1, 1, 1)[:4]),
    "row of space": ("t = Mul(h, c)", (6,)),
    "slope": ("t = PRelu(h, c)", (8, 1, 1)),
    "one slope": ("t = PRelu(h, c)", (1,)),
    "power": ("a = Abs(h)\nt = Pow(a, c)", (8, 1, 1)),
    "choice": ("p = Less(h, c)\nt = Where(p, h, c)", (8, 1, 1)),
    "choice among constants": ("p = Less(h, c)\nt = Where(p, c, h)", (1, 8, 6, 1)),
    "largest of three": ("t = Max(h, c, c)", (8, 1, 1)),
    "mean of three": ("t = Mean(h, c, h)", (8, 1, 1)),
    "constants alone": ("k = Add(c, c)\nt = Mul(k, h)", (8, 1, 1)),
}


@pytest.mark.parametrize(("body", "shape"), BROADCAST.values(), ids=BROADCAST)
def test_broadcasting_constants_follow(body: str, shape: tuple[int, ...]) -> None:
    check_pruning(sandwich(body, c=rand(*shape, positive=True)), {"h": 8})


def test_higher_rank_constant_stretches_the_tensor() -> None:
    graph = sandwich("s = Add(h, c)\nt = ReduceSum<keepdims=0>(s, first)", c=rand(3, 1, 8, 1, 1), first=np.asarray([0]))
    check_pruning(graph, {"h": 8})


def test_residual_add_ties_both_layers() -> None:
    graph = sandwich("g = Conv(x, u)\nt = Add(h, g)", u=rand(8, 3, 1, 1, seed=5))
    groups = check_pruning(graph, {"h": 8})
    assert {n.name for n in groups.groups[0].layers} == {"h", "g", "y"}


def test_residual_add_to_the_input_freezes() -> None:
    groups = check_pruning(sandwich("t = Add(h, x)", channels=3), {})
    assert "input of the graph" in reason(groups, "h")


def test_single_channel_stretched_over_all() -> None:
    graph = sandwich("g = Conv(x, u)\nt = Mul(h, g)", u=rand(1, 3, 1, 1, seed=5))
    check_pruning(graph, {"h": 8})


def test_squeeze_and_excite() -> None:
    body = """
    p = GlobalAveragePool(h)
    q = Conv(p, a, ab)
    r = Relu(q)
    s = Conv(r, b)
    e = HardSigmoid(s)
    t = Mul(h, e)
    """
    check_pruning(sandwich(body, a=rand(4, 8, 1, 1), ab=rand(4), b=rand(8, 4, 1, 1)), {"h": 8, "q": 4})


def test_shared_bias_is_split() -> None:
    graph = graph_of(
        {"x": "float[1,3,5,5]"},
        """
        a = Conv(x, w, shared)
        b = Conv(a, u, shared)
        y = Conv(b, v)
        """,
        w=rand(8, 3, 1, 1), u=rand(8, 8, 1, 1), v=rand(2, 8, 1, 1), shared=rand(8),
    )  # fmt: skip
    check_pruning(graph, {"a": 8, "b": 8})


def test_shared_weights_of_two_layers() -> None:
    graph = graph_of(
        {"x": "float[1,8,5,5]"},
        """
        a = Conv(x, w, z)
        b = Conv(a, w, z)
        c = Conv(b, w)
        y = Conv(c, v)
        """,
        w=rand(8, 8, 1, 1), v=rand(2, 8, 1, 1), z=rand(8),
    )  # fmt: skip
    check_pruning(graph, {"a": 8, "b": 8, "c": 8})


NORM = {
    "batch": ("t = BatchNormalization(h, c1, c2, c3, c4)", {"h": 8}),
    "instance": ("t = InstanceNormalization(h, c1, c2)", {"h": 8}),
    "group": ("t = GroupNormalization<num_groups=4>(h, c1, c2)", {"h": 4}),
    "group of channels each": ("t = GroupNormalization<num_groups=8>(h, c1, c2)", {"h": 8}),
    "one group": ("t = GroupNormalization<num_groups=1>(h, c1, c2)", {}),
    "layer over space": ("t = LayerNormalization<axis=2>(h, s66, s66)", {"h": 8}),
    "layer over channels": ("t = LayerNormalization<axis=1>(h, s866)", {}),
    "layer over the last, a scale for all": ("t = LayerNormalization<axis=-1>(h, s866)", {"h": 8}),
    "rms": ("t = RMSNormalization<axis=-2>(h, s66)", {"h": 8}),
    "softmax over space": ("t = Softmax<axis=-1>(h)", {"h": 8}),
    "softmax over channels": ("t = Softmax<axis=1>(h)", {}),
    "hardmax over channels": ("t = Hardmax<axis=-3>(h)", {}),
    "log softmax": ("t = LogSoftmax<axis=3>(h)", {"h": 8}),
    "lp over channels": ("t = LpNormalization<axis=1>(h)", {}),
    "lp over space": ("t = LpNormalization<axis=2>(h)", {"h": 8}),
    "local response": ("t = LRN<size=3>(h)", {}),
    "mean and variance over space": ("t = MeanVarianceNormalization<axes=[-1,-2]>(h)", {"h": 8}),
    "mean and variance over channels": ("t = MeanVarianceNormalization<axes=[1]>(h)", {}),
}


@pytest.mark.parametrize(("body", "expected"), NORM.values(), ids=NORM)
def test_normalisations(body: str, expected: dict[str, int]) -> None:
    scales = {f"c{i}": rand(8, seed=i, positive=True) for i in (1, 2, 3, 4)}
    opset = 23 if "RMS" in body else 21
    graph = sandwich(body, opset=opset, s66=rand(6, 6), s866=rand(8, 6, 6), **scales)
    groups = check_pruning(graph, expected)
    if not expected:
        assert "over all of them" in reason(groups, "h") or "neighbouring" in reason(groups, "h")


def test_group_norm_with_a_scale_a_group() -> None:
    graph = sandwich("t = GroupNormalization<num_groups=4>(h, c, c)", opset=18, c=rand(4, positive=True))
    check_pruning(graph, {"h": 4})


def test_layer_norm_statistics() -> None:
    body = "l, m, d = LayerNormalization<axis=2>(h, s)\nk = Mul(l, d)\nt = Add(k, m)"
    check_pruning(sandwich(body, s=rand(6, 6)), {"h": 8})


def test_batch_norm_in_training_mode_freezes() -> None:
    body = "t, m, d = BatchNormalization<training_mode=1>(h, c, c, c, c)"
    groups = check_pruning(sandwich(body, c=rand(8, positive=True)), {})
    assert "training" in reason(groups, "h")


REDUCE = {
    "sum": ("s = ReduceSum<keepdims=1>(h, axis)\nt = Expand(s, wide)", {"h": 8}),
    "negative axis": ("s = ReduceSum<keepdims=1>(h, back)\nt = Expand(s, wide)", {"h": 8}),
    "norm": ("s = ReduceL2<keepdims=1>(h, axis)\nt = Expand(s, wide)", {"h": 8}),
    "absolute": ("s = ReduceL1<keepdims=1>(h, axis)\nt = Expand(s, wide)", {"h": 8}),
    "squares": ("s = ReduceSumSquare<keepdims=1>(h, axis)\nt = Expand(s, wide)", {"h": 8}),
    "log of sum": ("a = Abs(h)\ns = ReduceLogSum<keepdims=1>(a, axis)\nt = Expand(s, wide)", {"h": 8}),
    "log of sum of powers": ("s = ReduceLogSumExp<keepdims=1>(h, axis)\nt = Expand(s, wide)", {}),
    "mean": ("s = ReduceMean<keepdims=1>(h, axis)\nt = Expand(s, wide)", {}),
    "largest": ("s = ReduceMax<keepdims=1>(h, axis)\nt = Expand(s, wide)", {}),
    "product": ("s = ReduceProd<keepdims=1>(h, axis)\nt = Expand(s, wide)", {}),
    "mean over space": ("s = ReduceMean<keepdims=1>(h, space)\nt = Identity(s)", {"h": 8}),
    "mean over space and channels": ("s = ReduceMean<keepdims=1>(h)\nt = Expand(s, wide)", {}),
    "no axes is a no-op": ("t = ReduceMean<noop_with_empty_axes=1>(h)", {"h": 8}),
    "position of the largest": ("p = ArgMax<axis=1>(h)\ns = Cast<to=1>(p)\nt = Expand(s, wide)", {}),
    "position along space": ("p = ArgMin<axis=-1>(h)\nt = Cast<to=1>(p)", {"h": 8}),
    "running sum over space": ("t = CumSum(h, three)", {"h": 8}),
    "running sum over channels": ("t = CumSum(h, one)", {}),
    "best two of space": ("t, i = TopK<axis=-1>(h, two)", {"h": 8}),
    "best eight channels": ("t, i = TopK<axis=1>(h, eight)", {}),
}


@pytest.mark.parametrize(("body", "expected"), REDUCE.values(), ids=REDUCE)
def test_reductions(body: str, expected: dict[str, int]) -> None:
    numbers = {
        "axis": [1], "back": [-3], "space": [2, -1], "wide": [2, 8, 6, 6], "two": [2], "eight": [8], "one": 1, "three": 3,
    }  # fmt: skip
    check_pruning(sandwich(body, **{k: np.asarray(v, np.int64) for k, v in numbers.items()}), expected)


def test_sum_over_a_constant_counts_its_channels() -> None:
    """The constant's channels belong to the convolution that reads it elsewhere, so its sum changes with them."""
    graph = sandwich("k = Identity(c)\ns = ReduceSum(k, one)\nm = Mul(h, k)\nt = Add(m, s)",
                     c=rand(1, 8, 1, 1), one=np.asarray([1]))  # fmt: skip
    check_pruning(graph, {"h": 8})


QUANT = {
    "a scale for all": ("q = QuantizeLinear(h, s, z)\nt = DequantizeLinear(q, s, z)", ()),
    "a scale a channel": ("q = QuantizeLinear<axis=1>(h, s, z)\nt = DequantizeLinear<axis=-3>(q, s, z)", (8,)),
    "no zero point": ("q = QuantizeLinear<axis=1>(h, s)\nt = DequantizeLinear<axis=1>(q, s)", (8,)),
}


@pytest.mark.parametrize(("body", "shape"), QUANT.values(), ids=QUANT)
def test_quantisation(body: str, shape: tuple[int, ...]) -> None:
    scale = (rand(*shape, positive=True) / 40).astype(np.float32)
    zero = np.arange(int(np.prod(shape)), dtype=np.uint8).reshape(shape) + 120
    check_pruning(sandwich(body, s=scale, z=zero.astype(np.uint8), opset=21), {"h": 8})
