"""The ``light`` models of the onnx package with weights put in.

The onnx package ships nine classic networks whose weights are ConstantOfShape nodes: all equal, so the output doesn't
depend on the input and any compiler passes any check. Here each such node becomes an initializer of seeded random
numbers, scaled so that activations neither vanish nor explode and different images give different scores. The few small
tensors of the trained originals that the package kept are replaced too: among random weights they explode.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from graphopt.errors import ModelError
from graphopt.models.cache import atomic_file, cache_dir
from graphopt.models.signals import seeded

# Part of the cache key: raise it whenever the numbers below change.
GENERATOR = 1
# From version 4 on initializers need not be listed among the graph's inputs.
MIN_IR_VERSION = 4
# Filters this deep are made zero-mean, see _filter().
CENTRE_FROM = 8

Weights = NDArray[Any]
# Where a value is read: the node and which of its inputs it is.
Use = tuple[onnx.NodeProto, int]


@dataclass(frozen=True)
class LightModel:
    """One light model with random weights.

    Attributes:
        name: as in ``light_<name>.onnx``.
        logit_gain: scale of the last layer, chosen so that scores have a standard deviation of about 2: clearly
            different from each other, far from a saturated softmax.
        seed: of the weights.
    """

    name: str
    logit_gain: float
    seed: int = 0

    def path(self) -> Path:
        """The generated model in the cache, made on first use.

        Raises:
            ModelError: the installed onnx package doesn't have the light model.
        """
        source = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{self.name}.onnx"
        try:
            content = source.read_bytes()
        except FileNotFoundError as error:
            raise ModelError(
                f"the installed onnx {onnx.__version__} has no {source.name}",
                code="model-missing",
                hint="install an onnx release that ships backend test data, e.g. 1.23",
            ) from error
        recipe = f"{GENERATOR} {self.seed} {self.logit_gain}".encode()
        key = hashlib.sha256(recipe + content).hexdigest()[:16]
        target = cache_dir() / "light" / f"{self.name}-{key}.onnx"
        if not target.exists():
            model = onnx.load_model_from_string(content)
            fill_weights(model, name=self.name, seed=self.seed, logit_gain=self.logit_gain)
            with atomic_file(target) as temporary:
                temporary.write_bytes(model.SerializeToString())
        return target


def fill_weights(model: onnx.ModelProto, *, name: str, seed: int, logit_gain: float) -> None:
    """Gives ``model`` random weights, in place.

    Args:
        model: one of the light models.
        name: goes into the random seed together with ``seed`` and the weight's name.
        seed: of the weights.
        logit_gain: multiplies the weights of the last convolution or Gemm.

    Raises:
        ModelError: a weight is used in a way that this generator doesn't know.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    uses: defaultdict[str, list[Use]] = defaultdict(list)
    for node in graph.node:
        for slot, value in enumerate(node.input):
            uses[value].append((node, slot))
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    producers = {output: node for node in graph.node for output in node.output}

    made: list[onnx.TensorProto] = []
    for weight, shape in _weights(graph):
        if not uses[weight]:
            continue
        rng = seeded(name, seed, weight)
        reader, slot = _reader(uses, weight)
        match reader.op_type, slot:
            case "Conv" | "Gemm", 1:
                data = producers.get(reader.input[0])
                values = _filter(rng, shape, reader, data.op_type if data else None)
                values *= logit_gain if reader is layers[-1] else 1.0
            case "Conv" | "Gemm", 2:
                values = 0.05 * rng.standard_normal(shape)
            case "BatchNormalization", 1:
                values = rng.uniform(0.8, 1.2, shape) * _branch_gain(reader, uses, producers)
            case "BatchNormalization", 4:
                values = rng.uniform(0.8, 1.2, shape)
            case "Mul", _:
                values = rng.uniform(0.9, 1.1, shape)
            case ("BatchNormalization", 2 | 3) | ("Add", _):
                values = 0.05 * rng.standard_normal(shape)
            case other:
                raise ModelError(
                    f"no rule for random weights read by {other[0]} as input {other[1]}",
                    code="model-generator",
                    notes=[f"the weight is {weight}"],
                )
        made.append(numpy_helper.from_array(values.astype(np.float32), weight))

    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    read = {value for node in kept for value in node.input}
    replaced = {tensor.name for tensor in made}
    initializers = [tensor for tensor in graph.initializer if tensor.name in read - replaced] + made
    inputs = [value for value in graph.input if value.name not in stored]
    for field, content in ((graph.node, kept), (graph.initializer, initializers), (graph.input, inputs)):
        del field[:]
        field.extend(content)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight: results of ConstantOfShape, and float initializers."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            yield node.output[0], tuple(int(size) for size in numpy_helper.to_array(stored[node.input[0]]))
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            yield tensor.name, tuple(tensor.dims)


def _reader(uses: Mapping[str, list[Use]], value: str) -> Use:
    """The only reader of a weight, looking through Unsqueeze (channel scales) and Reshape (a matrix kept as 4-D)."""
    if len(uses[value]) != 1:
        raise ModelError(f"weight {value} has {len(uses[value])} readers, expected one", code="model-generator")
    node, slot = uses[value][0]
    return _reader(uses, node.output[0]) if node.op_type in ("Unsqueeze", "Reshape") else (node, slot)


def _filter(rng: np.random.Generator, shape: tuple[int, ...], layer: onnx.NodeProto, source: str | None) -> Weights:
    """He-like weights, float32, that keep the variance from layer to layer.

    After ReLU all activations are positive, and what they have in common grows with depth until every image gives the
    same scores. Zero-mean filters cancel it. Then only the variance of a rectified Gaussian, (1 - 1/pi) / 2, is passed
    on, not its second moment, 1/2. Shallow (depthwise) filters stay as drawn: centred ones would be edge detectors.

    Args:
        rng: of this weight alone.
        shape: of the weight; the last two of a matrix kept as 4-D count.
        layer: the Conv or Gemm that reads it.
        source: operator that made the layer's input, None for the graph's input.
    """
    if layer.op_type == "Conv":
        summed: tuple[int, ...] = tuple(range(1, len(shape)))
    else:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in layer.attribute)
        summed = (len(shape) - 1 if transposed else len(shape) - 2,)
    fan_in = math.prod(shape[axis] for axis in summed)
    values = rng.standard_normal(shape, dtype=np.float32)
    if source in (None, "Conv", "BatchNormalization"):
        second_moment = 1.0
    elif shape[summed[0]] >= CENTRE_FROM:
        values -= values.mean(axis=summed, keepdims=True)
        second_moment = (1 - 1 / math.pi) / 2
    else:
        second_moment = 0.5
    values *= 1 / math.sqrt(second_moment * fan_in)
    return values


def _branch_gain(
    batch_norm: onnx.NodeProto, uses: Mapping[str, list[Use]], producers: Mapping[str, onnx.NodeProto]
) -> float:
    """Below 1 where the result is added to a shortcut, so that the variance doesn't double with each residual block."""
    sums = [node for node, _ in uses[batch_norm.output[0]] if node.op_type == "Sum"]
    if not sums:
        return 1.0
    addends: list[Any] = [producers.get(value) for value in sums[0].input]
    branches = sum(node is not None and node.op_type == "BatchNormalization" for node in addends)
    # Two normalised branches share the variance; one beside an identity shortcut adds an eighth to it.
    return math.sqrt(0.5) if branches > 1 else 0.35
