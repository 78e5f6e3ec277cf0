"""Products of many shapes in one model: one compilation, one run, an oracle that is exact.

Operands are small whole numbers, so that every product and every sum is exact in float32, in whatever order it is formed: a result
has to be the exact one, rounded once to the type of the model. One element that is left out, taken twice or taken from elsewhere
shows. ONNX Runtime computes the same model, with float32 in the place of smaller floats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, parser

from tests.support.ort import run_ort

Array = npt.NDArray[Any]
_NAME = re.compile(r"(?<![\w.])([a-z])(?![\w.:])(?!\s*=\s*[-\d\[])")
"""A name of one letter: a value, unless it is an attribute's, behind which a number or a list is."""


@dataclass(frozen=True)
class Problem:
    """A few nodes with inputs and constants of their own.

    Attributes:
        body: the nodes as ONNX text, values named by single letters; the result is ``y``.
        inputs: arrays by name; float32 stands for the type of the model.
        constants: likewise.
        result: type of the result.
    """

    body: str
    inputs: Mapping[str, Array]
    constants: Mapping[str, Array]
    result: Any = np.float32

    @property
    def label(self) -> str:
        """The nodes and shapes."""
        shapes = {**self.inputs, **self.constants}
        return f"{' '.join(self.body.split())} with {', '.join(f'{k}{list(v.shape)}' for k, v in shapes.items())}"


def whole(*shape: int, dtype: Any = np.float32, largest: int = 3) -> Array:
    """Random whole numbers up to ``largest``, negative ones too where the type has them."""
    unsigned = np.issubdtype(dtype, np.unsignedinteger)
    numbers = np.random.default_rng(shape).integers(0 if unsigned else -largest, largest, shape, endpoint=True)
    return numbers.astype(dtype)


class Sweep:
    """Problems as one model.

    Args:
        problems: what is computed.
        dtype: what takes the place of float32 among inputs, constants and results.
    """

    def __init__(self, problems: Sequence[Problem], dtype: Any = np.float32) -> None:
        self._problems = list(enumerate(problems))
        self._dtype = np.dtype(dtype)

    @property
    def feed(self) -> dict[str, Array]:
        """Arrays by input name."""
        named = ((f"{name}{number}", array) for number, p in self._problems for name, array in p.inputs.items())
        return {name: array.astype(self._typed(array.dtype)) for name, array in named}

    @property
    def model(self) -> bytes:
        """The model in its type."""
        return self._model(self._dtype).SerializeToString()

    def check(self, results: Mapping[str, Array]) -> None:
        """Every result is the exact one.

        Raises:
            AssertionError: with the problems whose results aren't.
        """
        feed = {
            name: array.astype(np.float32) if array.dtype == self._dtype else array for name, array in self.feed.items()
        }
        wrong = []
        for (number, problem), exact in zip(self._problems, run_ort(self._model(np.dtype(np.float32)), feed)):
            got, want = results[f"y{number}"], exact.astype(self._typed(exact.dtype))
            assert (got.shape, got.dtype) == (want.shape, want.dtype), problem.label
            differs = got != want
            if differs.any():
                at = tuple(int(i) for i in np.argwhere(differs)[0])
                count = f"{differs.sum()} of {differs.size} differ"
                wrong.append(f"{problem.label}: {count}, the first at {at}: {got[at]}, not {want[at]}")
        assert not wrong, "\n".join(wrong)

    def _typed(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return self._dtype if dtype == np.float32 else dtype

    def _model(self, dtype: np.dtype[Any]) -> onnx.ModelProto:
        def code(given: Any) -> int:
            return helper.np_dtype_to_tensor_dtype(dtype if given == np.float32 else np.dtype(given))

        nodes, inputs, constants, outputs = [], [], [], []
        for number, problem in self._problems:
            nodes += [parser.parse_node(_NAME.sub(rf"\g<1>{number}", line)) for line in problem.body.splitlines()]
            for name, array in problem.inputs.items():
                inputs.append(helper.make_tensor_value_info(f"{name}{number}", code(array.dtype), array.shape))
            for name, array in problem.constants.items():
                typed = array.astype(dtype) if array.dtype == np.float32 else array
                constants.append(numpy_helper.from_array(typed, f"{name}{number}"))
            outputs.append(helper.make_tensor_value_info(f"y{number}", code(problem.result), None))
        graph = helper.make_graph(nodes, "sweep", inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
