"""ONNX's backend test-suite as cases: a model, its data sets and tolerances."""

from __future__ import annotations

import functools
import os
import re
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
FORMS = ("inputs", "constants")
"""A case as it is, and with every input but the first as an initializer, which is how real models come."""


@dataclass(frozen=True)
class Case:
    """One test of the suite; a data set is (inputs, expected outputs) where None stands for what is no tensor.

    Attributes:
        ulps: units in the last place granted to results of 16 bits in place of the tolerances, if not 0.
    """

    name: str
    kind: str
    model: ModelProto
    data: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float
    ulps: int = 0

    @property
    def feeds(self) -> list[str]:
        """Names of the inputs that data sets give arrays for."""
        given = {t.name for t in self.model.graph.initializer}
        return [i.name for i in self.model.graph.input if i.name not in given]

    def has_form(self, form: str) -> bool:
        """Whether the form differs from the case as it is."""
        return form == "inputs" or len(self.feeds) > 1

    def in_form(self, form: str) -> Case:
        """The case in one of ``FORMS``; of several data sets only the first survives constants."""
        if not self.has_form(form) or form == "inputs":
            return self
        model = ModelProto()
        model.CopyFrom(self.model)
        model.ir_version = max(model.ir_version, 4)  # before, initializers had to be inputs too
        inputs, outputs = self.data[0]
        kept = []
        for i, (name, array) in enumerate(zip(self.feeds, inputs)):
            if i == 0 or not isinstance(array, np.ndarray):
                kept.append(array)
                continue
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            model.graph.input.remove(next(v for v in model.graph.input if v.name == name))
        return replace(self, model=model, data=[(kept, outputs)])

    @property
    def operator(self) -> str:
        """What the table in the report lists the case under."""
        if self.kind != "node":
            return f"({self.kind} models)"
        return _operator_of(re.sub(r"_expanded.*", "", self.name)) or self.model.graph.node[0].op_type


def _operator_of(name: str) -> str | None:
    case = all_cases().get(name)
    return None if case is None or not case.model.graph.node else case.model.graph.node[-1].op_type


@functools.cache
def all_cases() -> dict[str, Case]:
    """Every case by name."""
    found: dict[str, Case] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in KINDS:
            for test in load_model_tests(kind=kind):
                # a few names occur twice, with different data
                name, n = test.name, 1
                while name in found:
                    n += 1
                    name = f"{test.name}#{n}"
                found[name] = _case(test, name, kind)
    return found


def _case(test: Any, name: str, kind: str) -> Case:
    if test.model is not None:
        model = test.model
        data = [([_array(x) for x in ins], [_array(x) for x in outs]) for ins, outs in test.data_sets]
    else:
        model = onnx.load(os.path.join(test.model_dir, "model.onnx"))
        data = []
        while os.path.isdir(folder := os.path.join(test.model_dir, f"test_data_set_{len(data)}")):
            data.append((_read(folder, "input", model.graph.input), _read(folder, "output", model.graph.output)))
    return Case(name, kind, model, data, test.rtol, test.atol)


def _read(folder: str, what: str, infos: Any) -> list[Any]:
    arrays: list[Any] = []
    while os.path.exists(path := os.path.join(folder, f"{what}_{len(arrays)}.pb")):
        info = infos[len(arrays)] if len(arrays) < len(infos) else None
        if info is not None and info.type.WhichOneof("value") != "tensor_type":
            arrays.append(None)
            continue
        proto = TensorProto()
        with open(path, "rb") as f:
            proto.ParseFromString(f.read())
        arrays.append(numpy_helper.to_array(proto))
    return arrays


def _array(x: Any) -> Any:
    if isinstance(x, TensorProto):
        return numpy_helper.to_array(x)
    return np.asarray(x) if isinstance(x, (np.ndarray, np.generic, int, float, bool)) else None
