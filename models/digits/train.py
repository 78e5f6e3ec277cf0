"""Train the digits CNN and write ``digits_cnn.onnx`` and ``digits_test.npz`` next to this file.

Run it in an environment of its own: graphopt itself never needs PyTorch.

    python -m venv torchenv
    torchenv/bin/pip install torch==2.13.0 scikit-learn==1.9.1 onnx
    torchenv/bin/python models/digits/train.py

CPU wheels are enough; training takes under a minute on one core. The ONNX file is built with ``onnx.helper`` from the
trained weights, not with PyTorch's exporter, so that BatchNormalization stays unfused and names stay readable.

Network (all convolutions 3x3, padding 1):

    image Nx1x8x8 -> conv1 16 -> bn -> relu -> conv2 32 -> bn -> relu -> maxpool 2 -> block
    block: conv3 32 -> bn -> relu -> conv4 32 -> bn -> (+ block input) -> relu
    -> global average pool and max pool of 4x4, concatenated -> fc -> logits Nx10

The test quarter takes no part in training, and nothing (epochs, checkpoint, augmentation) is chosen by its accuracy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
CLASSES = 10
EPS = 1e-5
# name -> (input channels, output channels)
CONVS = {"conv1": (1, 16), "conv2": (16, 32), "conv3": (32, 32), "conv4": (32, 32)}
FEATURES = 64

Weights = dict[str, NDArray[np.float32]]


def load_split() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Scikit-learn's 1797 digits in [0, 1], stratified 3:1: train images, test images, train labels, test labels."""
    from sklearn.datasets import load_digits  # type: ignore[import-not-found,unused-ignore]
    from sklearn.model_selection import train_test_split  # type: ignore[import-not-found,unused-ignore]

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=0)
    return train_x, test_x, train_y, test_y


def build_net() -> tuple[Any, Any]:
    """The network as a ModuleDict and a function ``forward(layers, images) -> logits``."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from torch import nn  # type: ignore[import-not-found,unused-ignore]
    from torch.nn import functional as F  # type: ignore[import-not-found,unused-ignore]

    layers = nn.ModuleDict({"fc": nn.Linear(FEATURES, CLASSES)})
    for name, (cin, cout) in CONVS.items():
        layers[name] = nn.Conv2d(cin, cout, 3, padding=1)
        layers[name.replace("conv", "bn")] = nn.BatchNorm2d(cout, eps=EPS)

    def forward(net: Any, x: Any) -> Any:
        x = F.relu(net["bn1"](net["conv1"](x)))
        x = F.max_pool2d(F.relu(net["bn2"](net["conv2"](x))), 2)
        y = net["bn4"](net["conv4"](F.relu(net["bn3"](net["conv3"](x)))))
        x = F.relu(x + y)
        return net["fc"](torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))

    return layers, forward


def train(images: NDArray[np.float32], labels: NDArray[np.int64], *, epochs: int, seed: int) -> Weights:
    """AdamW with a one-cycle schedule; each batch is shifted by up to one pixel and given a little noise.

    Args:
        images: Nx1x8x8 in [0, 1].
        labels: N class numbers.
        epochs: passes over the data; fixed beforehand, no early stopping.
        seed: of initial weights, order and augmentation.

    Returns:
        PyTorch's state dict as numpy arrays.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]
    from torch.nn import functional as F  # type: ignore[import-not-found,unused-ignore]

    torch.manual_seed(seed)
    net, forward = build_net()
    x_all, y_all = torch.from_numpy(images), torch.from_numpy(labels)
    batch = 64
    steps = (len(images) + batch - 1) // batch
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=epochs * steps)
    net.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(images)).split(batch):
            x, y = x_all[index], y_all[index]
            dy, dx = torch.randint(-1, 2, (2,)).tolist()
            x = torch.roll(F.pad(x, (1, 1, 1, 1)), (dy, dx), (2, 3))[:, :, 1:-1, 1:-1]
            x = (x + 0.03 * torch.randn_like(x)).clamp(0, 1)
            loss = F.cross_entropy(forward(net, x), y, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3d}  training loss {total / len(images):.4f}")
    return {key: value.numpy() for key, value in net.state_dict().items()}


def to_onnx(weights: Weights) -> onnx.ModelProto:
    """The trained network as an ONNX model: ``image`` Nx1x8x8 to ``logits`` Nx10, BatchNormalization unfused."""
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []

    def const(name: str) -> str:
        initializers.append(numpy_helper.from_array(weights[name].astype(np.float32), name))
        return name

    def node(op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name + "_out"], name=name, **attributes))
        return name + "_out"

    def conv_bn(number: int, x: str) -> str:
        conv, bn = f"conv{number}", f"bn{number}"
        y = node("Conv", conv, [x, const(f"{conv}.weight"), const(f"{conv}.bias")], kernel_shape=[3, 3], pads=[1] * 4)
        parameters = [const(f"{bn}.{key}") for key in ("weight", "bias", "running_mean", "running_var")]
        return node("BatchNormalization", bn, [y, *parameters], epsilon=EPS)

    x = node("Relu", "relu1", [conv_bn(1, "image")])
    x = node("Relu", "relu2", [conv_bn(2, x)])
    x = node("MaxPool", "pool", [x], kernel_shape=[2, 2], strides=[2, 2])
    y = conv_bn(4, node("Relu", "relu3", [conv_bn(3, x)]))
    x = node("Relu", "relu4", [node("Add", "residual", [x, y])])
    x = node("Concat", "features", [node("GlobalAveragePool", "mean", [x]), node("GlobalMaxPool", "max", [x])], axis=1)
    x = node("Flatten", "flatten", [x], axis=1)
    nodes.append(
        helper.make_node("Gemm", [x, const("fc.weight"), const("fc.bias")], ["logits"], name="fc", transB=1),
    )
    graph = helper.make_graph(
        nodes,
        "digits_cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="graphopt digits"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def accuracy(model: onnx.ModelProto, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Top-1 accuracy of the ONNX model itself, by the reference evaluator, so that the export is checked too."""
    from onnx.reference import ReferenceEvaluator

    (logits,) = ReferenceEvaluator(model).run(None, {"image": images})
    return float((np.argmax(np.asarray(logits), axis=1) == labels).mean())


def main() -> None:
    """Train, export, and print the accuracy on both splits."""
    parser = argparse.ArgumentParser(description="Train the digits CNN.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    train_x, test_x, train_y, test_y = load_split()
    model = to_onnx(train(train_x, train_y, epochs=args.epochs, seed=args.seed))
    onnx.save(model, args.out / "digits_cnn.onnx")
    np.savez_compressed(args.out / "digits_test.npz", images=test_x, labels=test_y)
    print(f"training accuracy {accuracy(model, train_x, train_y):.4f} ({len(train_y)} images)")
    print(f"test accuracy     {accuracy(model, test_x, test_y):.4f} ({len(test_y)} images)")


if __name__ == "__main__":
    main()
