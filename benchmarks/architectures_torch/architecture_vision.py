"""Architectures that see images or video."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from architecture_models import Architecture, Feed, image, timm_model, torchvision_model
from torch import Tensor, nn

FULLY = ("batch", "height", "width")


class Double(nn.Sequential):
    """Two convolutions with normalisation, the unit of UNet."""

    def __init__(self, into: int, out: int) -> None:
        layers: list[nn.Module] = []
        for channels in (into, out):
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """Ronneberger, Fischer and Brox, "U-Net", 2015, with padding and half its channels."""

    def __init__(self, width: int = 32, levels: int = 4, classes: int = 2) -> None:
        super().__init__()
        widths = [width << level for level in range(levels + 1)]
        self.first = Double(3, width)
        self.down = nn.ModuleList(Double(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.join = nn.ModuleList(Double(2 * a, a) for a in widths[:-1])
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Classes of every pixel."""
        kept = [self.first(x)]
        for block in self.down:
            kept.append(block(nn.functional.max_pool2d(kept[-1], 2)))
        y = kept.pop()
        for up, join in zip(reversed(self.up), reversed(self.join)):
            y = join(torch.cat([kept.pop(), up(y)], 1))
        return self.last(y)


class Key(nn.Module):
    """One entry of a module's dictionary of results."""

    def __init__(self, build: Callable[[], nn.Module], key: str) -> None:
        super().__init__()
        self.module, self.key = build(), key

    def forward(self, x: Tensor) -> Tensor:
        """That entry."""
        found: Tensor = self.module(x)[self.key]
        return found


class Detector(nn.Module):
    """Torchvision's detectors take a list of images of three axes and answer a list of dictionaries."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.module = build()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of the one image."""
        found = self.module([x])
        found = found[1] if isinstance(found, tuple) else found
        return found[0]["boxes"], found[0]["scores"], found[0]["labels"]


class Detr(nn.Module):
    """Hugging Face's DETR with a ResNet-50 of its own."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import DetrConfig, DetrForObjectDetection

        self.module = DetrForObjectDetection(DetrConfig(num_labels=91))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Classes and boxes of the queries; the mask is of ones, as for a single image."""
        found = self.module(pixels)
        return found.logits, found.pred_boxes


VISION = (
    Architecture("convnext_tiny", "ConvNeXt-T, timm", timm_model("convnext_tiny"), image(*FULLY)),
    Architecture("vit_small", "ViT-S/16, timm", timm_model("vit_small_patch16_224"), image("batch")),
    Architecture("deit_tiny", "DeiT-T/16, timm", timm_model("deit_tiny_patch16_224"), image("batch")),
    Architecture("mobilenetv3", "MobileNetV3-L, timm", timm_model("mobilenetv3_large_100"), image(*FULLY)),
    Architecture("efficientnet_b0", "EfficientNet-B0, timm", timm_model("efficientnet_b0"), image(*FULLY)),
    Architecture("efficientnetv2_s", "EfficientNetV2-S, timm", timm_model("efficientnetv2_s"), image(*FULLY)),
    Architecture("ghostnet", "GhostNet 1.0, timm", timm_model("ghostnet_100"), image(*FULLY)),
    Architecture("dla34", "DLA-34, timm", timm_model("dla34"), image(*FULLY), traced=True),  # its guards want even halves
    Architecture("inception_v4", "Inception-v4, timm", timm_model("inception_v4"), image(*FULLY, size=299)),
    Architecture("mobilevit_s", "MobileViT-S, timm", timm_model("mobilevit_s"), image("batch", size=256)),
    Architecture("mixer_s16", "MLP-Mixer S/16, timm", timm_model("mixer_s16_224"), image("batch")),
    Architecture("cspdarknet53", "CSPDarkNet-53, timm", timm_model("cspdarknet53"), image(*FULLY, size=256)),
    Architecture("unet", "UNet of 32 to 512 channels", UNet, image(*FULLY, size=128)),
    Architecture(
        "deeplabv3", "DeepLabV3 on MobileNetV3, torchvision",
        lambda: Key(torchvision_model("deeplabv3_mobilenet_v3_large", weights_backbone=None, num_classes=21), "out"),
        image(*FULLY, size=224),
    ),
    Architecture(
        "r3d_18", "R3D-18 on 8 frames, torchvision", torchvision_model("r3d_18"),
        {"x": Feed((1, 3, 8, 112, 112), {0: "batch", 2: "frames", 3: "height", 4: "width"})},
    ),
    Architecture(
        "retinanet", "RetinaNet on ResNet-50 with NMS, torchvision",
        lambda: Detector(
            torchvision_model(  # random weights are never sure, and above the usual threshold there would be no box
                "retinanet_resnet50_fpn", weights_backbone=None, min_size=320, max_size=320, num_classes=91, score_thresh=0.0,
                topk_candidates=100,
            )
        ),
        {"x": Feed((3, 320, 320), {1: "height", 2: "width"})}, ("boxes", "scores", "labels"), traced=True,
    ),
    Architecture("detr", "DETR on ResNet-50, transformers", Detr, image("height", "width", size=320), ("logits", "boxes")),
)  # fmt: skip
