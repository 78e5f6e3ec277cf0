"""The table of operators: what shape inference and passes know of each. Code generation keeps its own table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.ir.types import Type

if TYPE_CHECKING:
    from graphopt.ir.graph import Node
    from graphopt.ops.context import InferContext

InferFn = Callable[["InferContext"], "list[Type]"]

# -- traits: each says one thing of an operator that passes, back ends or reports go by --------------------------------
ELEMENTWISE = "elementwise"  # output element i depends on the (broadcast) input elements i only
UNARY = "unary"  # element-wise function of one operand, with that operand's element type
BROADCAST = "broadcast"  # element-wise with numpy broadcasting of several inputs
SELECTS = "selects"  # element-wise: picks among its operands by their order or a condition, or changes a sign, and never rounds
COMMUTATIVE = "commutative"
CONVERTS = "converts"  # element-wise: the numbers of its first operand in another element type
AFFINE = "affine"  # from numbers to integers that stand for them, or back: data, scale, zero point
REDUCTION = "reduction"
REDUCE = "reduce"  # one of the Reduce* family: axes as second operand, keepdims
ONE_NEST = "one-nest"  # a reduction computed in one loop nest, so that element-wise consumers can follow in registers
SOFTMAX = "softmax"  # exponentials over their sum along an axis, or the logarithm of that
NORMALISES = "normalises"  # by mean and variance or root mean square of each instance, then scale and perhaps bias
POOL = "pool"  # greatest element or mean of windows of the spatial axes
GREATEST = "greatest"  # a pool that gives the greatest element, which is one of its operand's
ACTIVATION = "activation"  # unary, bends what lies between layers: flat or straight far from zero, with no pole
MOVEMENT = "movement"  # output elements are copies of input elements, in whole tensors or parts of them
RESHAPE = "reshape"  # the same elements in the same order in another shape
VIEW = "view"  # the result is the operand's bytes: it moves nothing
CUT = "cut"  # takes runs of indices along axes
PART = "part"  # may read a part of its operand only
ANCHOR = "anchor"  # matmul-like: worth a kernel of its own with an epilogue
LINEAR = "linear"  # sum of products of the first two operands, either of which may hold weights (see ``ops.linear``)
MATRIX_PRODUCT = "matrix-product"  # linear, of matrices
CONVOLUTION = "convolution"  # linear over windows: data, weight, bias; channels on axis 1
WHOLE_SUMS = "whole-sums"  # linear, and without padding every output element sums as many products
BIAS = "bias"  # linear with a third operand that is added
RECURRENT = "recurrent"  # x, W, R, B, ...: products with weights at every step of a sequence
CONTROL = "control"  # runs subgraphs
LOOP = "loop"  # control flow that runs its body once an iteration
RANDOM = "random"  # result is not a function of the inputs
ANY_LAYOUT = "any-layout"  # as fast on channels in blocks as on plain ones (a lane is a channel)


@dataclass
class OpInfo:
    """What is known of one operator of ai.onnx."""

    name: str
    infer: InferFn | None = None
    traits: frozenset[str] = field(default_factory=frozenset)


_TABLE: dict[str, OpInfo] = {}


def register(*names: str, traits: tuple[str, ...] = ()) -> Callable[[InferFn], InferFn]:
    """Decorator: the function infers the output types of the named ai.onnx operators."""

    def add(fn: InferFn) -> InferFn:
        for name in names:
            _TABLE[name] = OpInfo(name, fn, frozenset(traits))
        return fn

    return add


def lookup(op: str) -> OpInfo | None:
    """The entry of an ai.onnx operator, None if this table has none."""
    return _TABLE.get(op)


def has_trait(node: Node, trait: str) -> bool:
    """Whether the node's operator is known to have the trait; those of other domains than ai.onnx have none."""
    return not node.domain and op_has_trait(node.op, trait)


def op_has_trait(op: str, trait: str) -> bool:
    """Whether an ai.onnx operator is known to have the trait."""
    info = _TABLE.get(op)
    return info is not None and trait in info.traits


def registered() -> list[str]:
    """Operators with an entry so far; ``graphopt.ops.table`` has them all."""
    return sorted(_TABLE)
