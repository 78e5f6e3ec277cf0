"""Einsum as a matrix product: the same numbers as ONNX Runtime's Einsum, with no more copies than the equation needs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from graphopt.passes.canonical.einsum import ProductPlan, plans
from tests.support.onnx_graphs import assert_fires, assert_refuses, graph_of, rand

EXTENTS = dict(zip("abcdehijknqtwv", (2, 3, 4, 5, 6, 7, 3, 5, 4, 2, 6, 4, 5, 3)))


def _einsum(equation: str, **symbols: str) -> tuple[dict[str, str], str]:
    """Inputs and node; subscripts among ``symbols`` are open."""
    left, right = equation.split("->")[0].split(",")

    def shape(term: str) -> str:
        return "float[" + ",".join(symbols.get(s, str(EXTENTS[s])) for s in term) + "]"

    return {"x": shape(left), "z": shape(right)}, f'y = Einsum<equation="{equation}">(x, z)'


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("ij,jk->ik", ["MatMul"]),
        ("ij,jk", ["MatMul"]),
        ("bhij,bhjd->bhid", ["MatMul"]),
        ("bhid,bhjd->bhij", ["Transpose", "MatMul"]),
        ("bqc,bchw->bqhw", ["Reshape", "MatMul", "Reshape"]),
        ("nctw,cd->ntwd", ["Transpose", "MatMul"]),
        ("bhwc,hkc->bhwk", ["Transpose", "MatMul"]),
        ("ij,ij->", ["Reshape", "Reshape", "MatMul", "Reshape"]),
        ("ij,kj->ki", ["Transpose", "MatMul"]),
        ("i,ij->j", ["Reshape", "MatMul", "Reshape"]),
    ],
)
def test_products(equation: str, expected: list[str]) -> None:
    inputs, node = _einsum(equation)
    assert_fires(graph_of(inputs, node), "lower-einsum", expected)


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("nkctv,kvw->nctw", ["Transpose", "Reshape", "Reshape", "MatMul", "Reshape"]),
        ("bhwc,wkc->bhwk", ["Transpose", "Reshape", "MatMul", "Reshape", "Transpose"]),
        ("nctw,cd->ndtw", ["Transpose", "Reshape", "MatMul", "Reshape"]),
        ("bthe,bhe->bht", ["Transpose", "Reshape", "MatMul", "Reshape"]),
        ("aib,bjc->jica", ["Transpose", "Reshape", "Transpose", "MatMul"]),
        ("bnqd,bnkd->qbkn", ["Transpose", "MatMul", "Transpose"]),
        ("ija,ijb->ab", ["Transpose", "Reshape", "Reshape", "MatMul"]),
    ],
)
def test_transposed_products(equation: str, expected: list[str]) -> None:
    inputs, node = _einsum(equation)
    assert_fires(graph_of(inputs, node), "lower-einsum", expected)


def test_every_equation_of_three_subscripts() -> None:
    rng = np.random.default_rng(0)
    for left, right in itertools.product(itertools.permutations("ijk", 2), itertools.permutations("ikt", 2)):
        both = set(left) & set(right)
        own = [*(s for s in (*left, *right) if s not in both)]
        for kept in ((), tuple(both)[:-1]):
            for out in itertools.permutations([*own, *kept]):
                if not both - set(out):
                    continue
                x = rng.standard_normal([EXTENTS[s] for s in left])
                z = rng.standard_normal([EXTENTS[s] for s in right])
                want = np.einsum(f"{''.join(left)},{''.join(right)}->{''.join(out)}", x, z)
                for plan in plans(["".join(left), "".join(right)], "".join(out)):
                    np.testing.assert_allclose(_computed(plan, x, left, z, right, out), want, 1e-9, 1e-9)


def _computed(
    plan: ProductPlan, x: np.ndarray, left: tuple[str, ...], z: np.ndarray, right: tuple[str, ...], out: tuple[str, ...]
) -> np.ndarray:  # type: ignore[type-arg]
    """What a plan says, by numpy's matrix product."""
    pairs = [(x, left), (z, right)][:: -1 if plan.swapped else 1]
    matrices = []
    for number, (array, term) in enumerate(pairs):
        order = plan.order("".join(term), number == 0)
        array = array.transpose([term.index(s) for s in order])
        batch = [EXTENTS[s] if s in term else 1 for s in plan.batch]
        inner = int(np.prod([EXTENTS[s] for s in plan.summed]))
        matrices.append(array.reshape([*batch, -1, inner] if number == 0 else [*batch, inner, -1]))
    found = (matrices[0] @ matrices[1]).reshape([EXTENTS[s] for s in plan.result])
    return found.transpose([plan.result.index(s) for s in out])


def test_ellipsis() -> None:
    g = graph_of({"x": "float[2,3,4,5]", "z": "float[2,3,5,6]"}, 'y = Einsum<equation="...ij,...jk->...ik">(x, z)')
    assert_fires(g, "lower-einsum", ["MatMul"])


def test_a_constant_is_transposed_for_nothing() -> None:
    g = graph_of({"x": "float[2,4,3,5]"}, 'y = Einsum<equation="nctw,cd->ndtw">(x, w)', w=rand(4, 7))
    assert_fires(g, "lower-einsum", ["Transpose", "Reshape", "MatMul", "Reshape"])


def test_open_extents() -> None:
    inputs, node = _einsum("bhid,bhjd->bhij", b="B", i="I", j="J")
    assert_fires(graph_of(inputs, node), "lower-einsum", ["Transpose", "MatMul"])
    inputs, node = _einsum("nctw,cd->ntwd", n="N", t="T", w="W")
    assert_fires(graph_of(inputs, node), "lower-einsum", ["Transpose", "MatMul"])
    inputs, node = _einsum("bqc,bchw->bqhw", h="H")
    assert_fires(graph_of(inputs, node), "lower-einsum", ["Reshape", "MatMul", "Reshape"])


@pytest.mark.parametrize(
    ("inputs", "equation", "reason"),
    [
        ({"x": "float[3,3]", "z": "float[3,4]"}, "ii,ij->j", "twice"),
        ({"x": "float[3,5]", "z": "float[3,4]"}, "ia,ij->j", "one operand"),
        ({"x": "float[3]", "z": "float[4]"}, "i,j->ij", "nothing is summed"),
        ({"x": "float[1,4]", "z": "float[3,4]"}, "ij,ij->i", "broadcast"),
        ({"x": "float[N,H,4]", "z": "float[H,4]"}, "nhc,hc->n", "unknown"),
    ],
)
def test_refuses(inputs: dict[str, str], equation: str, reason: str) -> None:
    assert_refuses(graph_of(inputs, f'y = Einsum<equation="{equation}">(x, z)'), "lower-einsum", reason)
