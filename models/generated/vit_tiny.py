"""A small vision transformer (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929): patches, class token, fused QKV, mean of patches.

As PyTorch exports timm's network at opset 14: LayerNorm and GELU in plain operators. Q, K and V are taken from their
common projection by Split and Squeeze (``unbind``) in even blocks, by Gather (``qkv[0]``) in odd ones.
"""

from __future__ import annotations

import onnx

from graphopt.models.generated.writer import Writer, tensor

NAME = "vit_tiny"
OPSET = 14
SIZE = 128
PATCH = 16
WIDTH = 192
HEADS = 3
BLOCKS = 6
HIDDEN = 4 * WIDTH
CLASSES = 100
TOKENS = (SIZE // PATCH) ** 2 + 1
HEAD_WIDTH = WIDTH // HEADS


def vit_tiny(seed: int) -> onnx.ModelProto:
    """``image`` 1x3x128x128 to ``logits`` 1x100."""
    net = Writer(NAME, OPSET, seed)
    weight = net.filter("patch_embed.proj.weight", (WIDTH, 3, PATCH, PATCH), (1, 2, 3), 3.0)
    bias = net.normal("patch_embed.proj.bias", (WIDTH,), 0.05)
    x = net.node(
        "Conv", "patch_embed/proj", "image", weight, bias, kernel_shape=[PATCH] * 2, strides=[PATCH] * 2, pads=[0] * 4,
        group=1, dilations=[1, 1],
    )  # fmt: skip
    x = net.node("Reshape", "patch_embed", x, net.ints(1, WIDTH, -1))
    x = net.node("Transpose", "patch_embed", x, perm=[0, 2, 1])
    x = net.node("Concat", "tokens", net.normal("cls_token", (1, 1, WIDTH), 1.0), x, axis=1)
    x = net.node("Add", "tokens", x, net.normal("pos_embed", (1, TOKENS, WIDTH), 0.3))
    for block in range(BLOCKS):
        path = f"blocks.{block}"
        x = net.node("Add", f"{path}/add1", x, _attention(net, f"{path}/attn", _norm(net, f"{path}/norm1", x), block))
        x = net.node("Add", f"{path}/add2", x, _mlp(net, f"{path}/mlp", _norm(net, f"{path}/norm2", x)))
    x = _norm(net, "norm", x)
    x = net.node("Slice", "pool", x, net.ints(1), net.ints(TOKENS), net.ints(1))
    x = net.node("ReduceMean", "pool", x, axes=[1], keepdims=0)
    weight = net.filter("head.weight", (CLASSES, WIDTH), (1,), 2.0)
    net.node("Gemm", "head", x, weight, net.normal("head.bias", (CLASSES,), 0.05), transB=1, out="logits")
    return net.model([tensor("image", (1, 3, SIZE, SIZE))], [tensor("logits", (1, CLASSES))])


def _norm(net: Writer, path: str, x: str) -> str:
    centred = net.node("Sub", path, x, net.node("ReduceMean", f"{path}/mean", x, axes=[-1], keepdims=1))
    square = net.node("Pow", path, centred, net.scalar(2.0))
    variance = net.node("ReduceMean", f"{path}/variance", square, axes=[-1], keepdims=1)
    deviation = net.node("Sqrt", path, net.node("Add", f"{path}/epsilon", variance, net.scalar(1e-6)))
    scaled = net.node(
        "Mul", path, net.node("Div", path, centred, deviation), net.uniform(f"{path}.weight", (WIDTH,), 0.8, 1.2)
    )
    return net.node("Add", path, scaled, net.normal(f"{path}.bias", (WIDTH,), 0.05))


def _attention(net: Writer, path: str, x: str, block: int) -> str:
    qkv = net.linear(f"{path}/qkv", x, WIDTH, 3 * WIDTH)
    qkv = net.node("Reshape", path, qkv, net.ints(1, TOKENS, 3, HEADS, HEAD_WIDTH))
    qkv = net.node("Transpose", path, qkv, perm=[2, 0, 3, 1, 4])
    if block % 2 == 0:
        parts = net.split("Split", path, qkv, net.ints(1, 1, 1), count=3, axis=0)
        q, k, v = (net.node("Squeeze", f"{path}/{name}", part, net.ints(0)) for name, part in zip("qkv", parts))
    else:
        q, k, v = (net.node("Gather", f"{path}/{name}", qkv, net.index(i), axis=0) for i, name in enumerate("qkv"))
    k = net.node("Transpose", f"{path}/k", k, perm=[0, 1, 3, 2])
    scores = net.node("Mul", f"{path}/scale", net.node("MatMul", f"{path}/scores", q, k), net.scalar(HEAD_WIDTH**-0.5))
    y = net.node("MatMul", f"{path}/mix", net.node("Softmax", path, scores, axis=-1), v)
    y = net.node("Transpose", f"{path}/heads", y, perm=[0, 2, 1, 3])
    return net.linear(f"{path}/proj", net.node("Reshape", f"{path}/heads", y, net.ints(1, TOKENS, WIDTH)), WIDTH, WIDTH)


def _mlp(net: Writer, path: str, x: str) -> str:
    hidden = net.gelu(f"{path}/act", net.linear(f"{path}/fc1", x, WIDTH, HIDDEN))
    return net.linear(f"{path}/fc2", hidden, HIDDEN, WIDTH)
