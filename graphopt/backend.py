"""ONNX's backend interface (``onnx.backend.base``) over graphopt, for tools and test-suites that speak it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.shape_inference
from onnx import ModelProto, NodeProto
from onnx.backend.base import Backend, BackendRep, Device, DeviceType

from graphopt.errors import InputError, TargetError

if TYPE_CHECKING:
    from graphopt.runtime.model import CompiledModel


class GraphOptRep(BackendRep):
    """A compiled model behind ``run``."""

    def __init__(self, model: CompiledModel) -> None:
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[npt.NDArray[Any], ...]:
        """Outputs in order.

        Args:
            inputs: arrays by name, a sequence in input order, or the array itself for a model with one input.
            kwargs: none are defined; the interface passes them on.

        Raises:
            InputError: wrong names, count, dtypes or shapes.
        """
        names = [spec.name for spec in self.model.inputs]
        if isinstance(inputs, Mapping):
            feed = dict(inputs)
        else:
            given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(given) != len(names):
                raise InputError(f"{len(given)} arrays for {len(names)} inputs", hint=f"inputs are {', '.join(names)}")
            feed = dict(zip(names, given))
        return tuple(self.model.run({name: np.asarray(array) for name, array in feed.items()}).values())


class GraphOptBackend(Backend):
    """Compiles for the processor it runs on."""

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> GraphOptRep:
        """Compile a model.

        Args:
            model: the model; it is not changed.
            device: "CPU".
            kwargs: of ``graphopt.driver.compiling.compile`` (target, threads, shapes, level, ...).

        Raises:
            UnsupportedOpError: something in it can't be compiled correctly.
            ModelError: it is invalid.
            TargetError: another device.
        """
        from graphopt.driver.compiling import compile

        if not cls.supports_device(device):
            raise TargetError(
                f"the ONNX backend has no device {device!r}", hint="use 'CPU', or compile() with a target"
            )
        return GraphOptRep(compile(model, **kwargs))

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compile and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Compile and run a single operator in its newest form.

        Args:
            node: the operator.
            inputs: arrays by input name, or a sequence in the order of the inputs that are present.
            device: "CPU".
            outputs_info: dtype and shape of every output; they are inferred when absent.
            kwargs: ``opset_version``, and what ``prepare`` takes.
        """
        version = int(kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        present = list(dict.fromkeys(name for name in node.input if name))
        arrays = [inputs[name] for name in present] if isinstance(inputs, Mapping) else list(inputs)
        infos = [
            onnx.helper.make_tensor_value_info(
                n, onnx.helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype), np.shape(a)
            )
            for n, a in zip(present, arrays)
        ]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
        if outputs_info is not None:
            outputs = [
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
                for name, (dtype, shape) in zip([n for n in node.output if n], outputs_info)
            ]
        graph = onnx.helper.make_graph([node], "node", infos, outputs)
        opsets = [onnx.helper.make_opsetid("", version)]
        if node.domain:
            opsets.append(onnx.helper.make_opsetid(node.domain, 1))
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        if outputs_info is None:
            model = onnx.shape_inference.infer_shapes(model)
        return cls.run_model(model, arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only processors: GPU code is made by ``compile(target=...)``."""
        return bool(Device(device).type == DeviceType.CPU)


prepare = GraphOptBackend.prepare
run_model = GraphOptBackend.run_model
run_node = GraphOptBackend.run_node
supports_device = GraphOptBackend.supports_device
