"""Sizes of plans from shapes alone are those of the graphs that the surgery makes."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.graph import Graph
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.choice.size import Size, SizeModel, size_of
from graphopt.passes.prune.groups import PruneGroups, find_groups
from graphopt.passes.prune.plan import PrunePlan
from tests.support.onnx_graphs import graph_of, rand


def some_of(groups: PruneGroups, seed: int) -> PrunePlan:
    """A random part of every group."""
    rng = np.random.default_rng(seed)
    removed = {}
    for group in groups.groups:
        mask = np.zeros(group.size, bool)
        mask[rng.permutation(group.size)[: rng.integers(0, group.size)]] = True
        removed[group.index] = mask
    return PrunePlan(groups, removed)


def chain() -> Graph:
    return graph_of(
        {"x": "float[1,3,8,8]"},
        """
        a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)
        n = BatchNormalization (a, scale, bias, mean, var)
        r = Relu (n)
        c = Conv <kernel_shape=[1,1]> (r, w2)
        p = GlobalAveragePool (c)
        f = Flatten (p)
        y = Gemm <transB=1> (f, w3, b3)
        """,
        w1=rand(8, 3, 3, 3), b1=rand(8), scale=rand(8), bias=rand(8), mean=rand(8), var=rand(8, positive=True),
        w2=rand(6, 8, 1, 1), w3=rand(5, 6), b3=rand(5),
    )  # fmt: skip


def residual_and_depthwise() -> Graph:
    return graph_of(
        {"x": "float[2,3,6,6]"},
        """
        a = Conv <kernel_shape=[1,1]> (x, w1)
        d = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=8> (a, w2)
        e = Conv <kernel_shape=[1,1]> (d, w3)
        s = Add (a, e)
        q = Mul (s, half)
        y = Conv <kernel_shape=[1,1]> (q, w4)
        """,
        w1=rand(8, 3, 1, 1), w2=rand(8, 1, 3, 3), w3=rand(8, 8, 1, 1), w4=rand(4, 8, 1, 1), half=np.float32(0.5),
    )  # fmt: skip


def grouped() -> Graph:
    return graph_of(
        {"x": "float[1,4,5,5]"},
        """
        a = Conv <kernel_shape=[1,1]> (x, w1)
        g = Conv <kernel_shape=[3,3], group=2> (a, w2)
        h = Conv <kernel_shape=[1,1], group=2> (g, w3)
        y = Conv <kernel_shape=[1,1]> (h, w4)
        """,
        w1=rand(8, 4, 1, 1), w2=rand(8, 4, 3, 3), w3=rand(8, 4, 1, 1), w4=rand(3, 8, 1, 1),
    )  # fmt: skip


def shared_bias() -> Graph:
    """A constant that two layers use, of which each will keep another part."""
    return graph_of(
        {"x": "float[1,4,5,5]"},
        """
        a = Conv <kernel_shape=[1,1]> (x, w1, zero)
        b = Relu (a)
        c = Conv <kernel_shape=[1,1]> (b, w2, zero)
        d = Relu (c)
        y = Conv <kernel_shape=[1,1]> (d, w3)
        """,
        w1=rand(8, 4, 1, 1), w2=rand(8, 8, 1, 1), w3=rand(3, 8, 1, 1), zero=np.zeros(8, np.float32),
    )  # fmt: skip


def open_batch() -> Graph:
    return graph_of(
        {"x": "float[N,3,H,8]"},
        """
        a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1)
        b = Relu (a)
        y = Conv <kernel_shape=[1,1]> (b, w2)
        """,
        w1=rand(8, 3, 3, 3), w2=rand(4, 8, 1, 1),
    )  # fmt: skip


@pytest.mark.parametrize("make", [chain, residual_and_depthwise, grouped, shared_bias, open_batch])
@pytest.mark.parametrize("seed", range(3))
def test_predicted_sizes_are_those_of_the_surgery(make: object, seed: int) -> None:
    graph = make()  # type: ignore[operator]
    groups = find_groups(graph)
    assert groups.groups
    model = SizeModel(groups)
    assert model.of(PrunePlan(groups, {})) == size_of(graph)
    plan = some_of(groups, seed)
    assert model.of(plan) == size_of(apply_plan(plan))


def test_sizes_against_counting_by_hand() -> None:
    weights = 8 * 3 * 9 + 8 + 4 * 8 + 6 * 8 + 5 * 6 + 5
    conv1, norm, relu = 2 * 8 * 64 * 27 + 8 * 64, 2 * 8 * 64, 8 * 64
    conv2, pool, gemm = 2 * 6 * 64 * 8, 6 * 64, 2 * 5 * 6 + 5
    assert size_of(chain()) == Size(weights, 4 * weights, conv1 + norm + relu + conv2 + pool + gemm)


def test_open_dimensions_count_as_one_image_of_a_usual_size() -> None:
    taps = 8 * 27 + 4 * 8
    assert size_of(open_batch()).flops == 64 * 8 * (2 * taps + 8)


def test_integers_that_shapes_are_made_of_are_no_weights() -> None:
    graph = graph_of({"x": "float[1,4]"}, "a = Reshape (x, s)\ny = Mul (a, w)", s=np.asarray([4, 1]), w=rand(4, 1))
    assert size_of(graph) == Size(4, 16, 4)
