"""A small BERT encoder (Devlin et al., NAACL 2019, arXiv:1810.04805): token embeddings, Q, K and V apart, a mask for padding.

As PyTorch exports Hugging Face's network at opset 17 with open batch and sequence: target shapes are computed from
``Shape``, LayerNormalization is an operator, GELU is not.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from graphopt.models.generated.writer import Writer, tensor

NAME = "bert_tiny"
OPSET = 17
VOCABULARY = 2000
POSITIONS = 128
WIDTH = 128
HEADS = 4
LAYERS = 4
CLASSES = 16


def bert_tiny(seed: int, width: int = WIDTH, heads: int = HEADS) -> onnx.ModelProto:
    """``input_ids`` and ``attention_mask`` (int64, batch x sequence, 1 = a token) to ``logits`` batch x 16.

    Args:
        seed: of the weights.
        width: channels of a token; four times as many inside of the feed-forward layers.
        heads: of attention.
    """
    net = Writer(NAME, OPSET, seed)
    x = _embeddings(net, width)
    bias = _mask(net)
    for layer in range(LAYERS):
        path = f"encoder/layer.{layer}"
        attended = _attention(net, path, x, bias, width, heads)
        x = _norm(net, f"{path}/attention/norm", net.node("Add", f"{path}/attention", attended, x), width)
        hidden = net.gelu(f"{path}/gelu", net.linear(f"{path}/intermediate", x, width, 4 * width))
        output = net.linear(f"{path}/output", hidden, 4 * width, width)
        x = _norm(net, f"{path}/output/norm", net.node("Add", path, output, x), width)
    x = net.node("Gather", "pooler", x, net.index(0), axis=1)
    weight = net.filter("pooler.dense.weight", (width, width), (1,))
    x = net.node("Gemm", "pooler/dense", x, weight, net.normal("pooler.dense.bias", (width,), 0.05), transB=1)
    x = net.node("Tanh", "pooler", x)
    weight = net.filter("classifier.weight", (CLASSES, width), (1,), 2.0)
    net.node("Gemm", "classifier", x, weight, net.normal("classifier.bias", (CLASSES,), 0.05), transB=1, out="logits")
    shape = ("batch", "sequence")
    inputs = [tensor(name, shape, TensorProto.INT64) for name in ("input_ids", "attention_mask")]
    return net.model(inputs, [tensor("logits", ("batch", CLASSES))])


def _embeddings(net: Writer, width: int) -> str:
    path = "embeddings"
    words = net.node(
        "Gather", f"{path}/words", net.normal(f"{path}.words.weight", (VOCABULARY, width), 1.0), "input_ids"
    )
    length = net.node("Unsqueeze", path, _extent(net, path, "input_ids", 1), net.ints(0))
    every = net.constant(f"{path}.position_ids", [range(POSITIONS)], "int64")
    ids = net.node("Slice", path, every, net.ints(0), length, net.ints(1))
    places = net.node(
        "Gather", f"{path}/positions", net.normal(f"{path}.positions.weight", (POSITIONS, width), 0.5), ids
    )
    return _norm(net, f"{path}/norm", net.node("Add", path, words, places), width)


def _mask(net: Writer) -> str:
    """0 for tokens, the lowest float for padding: batch x 1 x 1 x sequence."""
    path = "mask"
    wide = net.node("Unsqueeze", path, "attention_mask", net.ints(1, 2))
    absent = net.node("Sub", path, net.scalar(1.0), net.node("Cast", path, wide, to=TensorProto.FLOAT))
    return net.node("Mul", path, absent, net.scalar(-3.4028234663852886e38))


def _attention(net: Writer, layer: str, x: str, bias: str, width: int, heads: int) -> str:
    path = f"{layer}/attention/self"
    q, k, v = (
        net.node(
            "Transpose",
            f"{path}/{part}",
            _heads(net, f"{path}/{part}", net.linear(f"{path}/{part}", x, width, width), width, heads),
            perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3],
        )
        for part in ("query", "key", "value")
    )
    scores = net.node("Div", path, net.node("MatMul", f"{path}/scores", q, k), net.scalar((width // heads) ** 0.5))
    weights = net.node("Softmax", path, net.node("Add", path, scores, bias), axis=-1)
    y = net.node("Transpose", f"{path}/context", net.node("MatMul", f"{path}/context", weights, v), perm=[0, 2, 1, 3])
    y = net.node("Reshape", f"{path}/context", y, _shape(net, f"{path}/context", y, width))
    return net.linear(f"{layer}/attention/output", y, width, width)


def _heads(net: Writer, path: str, x: str, width: int, heads: int) -> str:
    return net.node("Reshape", path, x, _shape(net, path, x, heads, width // heads))


def _shape(net: Writer, path: str, x: str, *rest: int) -> str:
    """x's first two extents and numbers, as one target shape."""
    sizes = [net.node("Unsqueeze", f"{path}/{axis}", _extent(net, path, x, axis), net.ints(0)) for axis in (0, 1)]
    return net.node("Concat", f"{path}/shape", *sizes, *(net.ints(size) for size in rest), axis=0)


def _extent(net: Writer, path: str, x: str, axis: int) -> str:
    return net.node(
        "Gather", f"{path}/shape{axis}", net.node("Shape", f"{path}/shape{axis}", x), net.index(axis), axis=0
    )


def _norm(net: Writer, path: str, x: str, width: int) -> str:
    scale, bias = net.uniform(f"{path}.weight", (width,), 0.8, 1.2), net.normal(f"{path}.bias", (width,), 0.05)
    return net.node("LayerNormalization", path, x, scale, bias, axis=-1, epsilon=1e-12)
