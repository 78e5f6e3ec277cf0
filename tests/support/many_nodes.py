"""Many single nodes in one model, each with inputs and a reference of its own: one compilation for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support.arrays import wide
from tests.support.tolerance import assert_close

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fixed:
    """An operand that is a constant of the model."""

    array: Array


@dataclass(frozen=True)
class _Check:
    name: str
    what: str
    want: Array
    reduction: int
    depth: int


class ManyNodes:
    """A model of nodes that have nothing to do with one another.

    Attributes:
        feed: the inputs of all of them.
    """

    def __init__(self, opset: int = 21) -> None:
        self._opset = opset
        self.feed: dict[str, Array] = {}
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._checks: list[_Check] = []
        self._declared: list[str] = []

    def add(
        self,
        op: str,
        *operands: Array | Fixed,
        want: Callable[..., Array],
        reduction: int = 1,
        depth: int = 1,
        outputs: tuple[type[Any] | None, ...] = (None,),
        **attributes: Any,
    ) -> None:
        """Another node.

        Args:
            op: the operator.
            operands: inputs and constants.
            want: the result, or a tuple of results, of the operands that are inputs, floats among them as float64.
            reduction, depth: as in ``assert_close``.
            outputs: element types of the results; None for that of the first operand.
            attributes: of the node; one that has the name of an argument gets ``_`` behind it.
        """
        number = len(self._nodes)
        names, given = [], []
        for i, operand in enumerate(operands):
            name = f"x{number}_{i}"
            names.append(name)
            if isinstance(operand, Fixed):
                self._constants.append(numpy_helper.from_array(operand.array, name))
            else:
                self.feed[name] = operand
                given.append(wide(operand))
        results = [f"y{number}_{i}" for i in range(len(outputs))]
        self._nodes.append(helper.make_node(op, names, results, **{k.rstrip("_"): v for k, v in attributes.items()}))
        with np.errstate(all="ignore"):
            found = want(*given)
        first = self.feed[names[0]].dtype
        for name, value, dtype in zip(results, found if isinstance(found, tuple) else (found,), outputs, strict=True):
            shapes = [self.feed[n].shape for n in names if n in self.feed]
            what = f"{op}{shapes} of {first} {attributes}"
            with np.errstate(all="ignore"):
                self._checks.append(_Check(name, what, np.asarray(value).astype(dtype or first), reduction, depth))

    def declare(self, op: str, *operands: Array) -> None:
        """A node that is compiled only: nothing is known of its result."""
        names = [f"x{len(self._nodes)}_{i}" for i in range(len(operands))]
        self.feed |= dict(zip(names, operands))
        result = f"y{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, names, [result]))
        self._declared.append(result)

    @property
    def model(self) -> bytes:
        """The model, serialised."""
        inputs = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for k, a in self.feed.items()
        ]
        results = [onnx.ValueInfoProto(name=n) for n in (*(c.name for c in self._checks), *self._declared)]
        graph = helper.make_graph(self._nodes, "many", inputs, results, self._constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=10)
        return onnx.shape_inference.infer_shapes(proto, data_prop=True).SerializeToString()

    def check(self, results: Mapping[str, Array]) -> None:
        """Every node's results against its reference."""
        for check in self._checks:
            assert_close(results[check.name], check.want, reduction=check.reduction, depth=check.depth, what=check.what)
