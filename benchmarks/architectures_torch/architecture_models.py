"""Architectures that nobody tuned for, as torch modules with seeded random weights; imported by the exporter's Python only.

Nothing is downloaded: every model is built from a configuration. Constant parameters (biases of zero, layer scales of 1e-6) would
hide mistakes behind them, so they get noise, and batch normalisations take the statistics of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SEED = 0


@dataclass(frozen=True)
class Feed:
    """One input.

    Attributes:
        shape: its extents where the export is static, and where the dynamic one is measured.
        axes: names of its open axes in the dynamic export.
        below: integers from 0 up to here, instead of normally distributed numbers; 1 for a mask of ones.
    """

    shape: tuple[int, ...]
    axes: Mapping[int, str] = field(default_factory=dict)
    below: int | None = None

    def draw(self, generator: torch.Generator, dynamic: bool) -> Tensor:
        """An example; where axes are open none of them is 1, which the exporter would take for fixed."""
        shape = [
            2 if dynamic and axis in self.axes and extent == 1 else extent for axis, extent in enumerate(self.shape)
        ]
        if self.below is None:
            return torch.randn(shape, generator=generator)
        if self.below == 1:
            return torch.ones(shape, dtype=torch.int64)
        return torch.randint(0, self.below, shape, generator=generator)


@dataclass(frozen=True)
class Architecture:
    """A model to export.

    Attributes:
        name: of the files.
        what: for the index.
        build: makes the module.
        feeds: inputs by name, in the order in which the module takes them.
        outputs: names of the results.
        more: further values of open axes at which the dynamic export is measured, besides those of the feeds.
        traced: the exporter of TorchScript rather than that of torch.export, which can't take the model.
    """

    name: str
    what: str
    build: Callable[[], nn.Module]
    feeds: Mapping[str, Feed]
    outputs: tuple[str, ...] = ("y",)
    more: tuple[Mapping[str, int], ...] = ()
    traced: bool = False

    @property
    def open(self) -> bool:
        """Whether there is a dynamic export."""
        return any(feed.axes for feed in self.feeds.values())

    def module(self) -> nn.Module:
        """The module with its weights, in evaluation mode."""
        torch.manual_seed(SEED)
        module = self.build()
        settle(module, self.example(dynamic=self.open))
        return module.eval()

    def example(self, dynamic: bool = False) -> tuple[Tensor, ...]:
        """Inputs in the order in which the module takes them."""
        generator = torch.Generator().manual_seed(SEED + 1)
        return tuple(feed.draw(generator, dynamic) for feed in self.feeds.values())


def settle(module: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Make the parameters such that every one of them matters, and the statistics those of the example."""
    generator = torch.Generator().manual_seed(SEED + 2)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                # a scale of 1e-6 or a last normalisation that starts at zero leaves a whole branch out
                level = float(parameter.flatten()[0])
                level = 0.5 if 0 < level < 0.1 else level
                parameter.copy_(level + 0.05 * torch.randn(parameter.shape, generator=generator))
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
        if not norms:
            return
        module.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # the mean of all batches: of this one
        module(*example)


def image(*axes: str, size: int = 224, batch: int = 1, channels: int = 3) -> dict[str, Feed]:
    """A square image; axes out of batch, height and width are open."""
    places = {"batch": 0, "height": 2, "width": 3}
    return {"x": Feed((batch, channels, size, size), {places[axis]: axis for axis in axes})}


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A model of timm without pretrained weights."""

    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, **options)

    return build


def torchvision_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A model of torchvision without pretrained weights."""

    def build() -> nn.Module:
        import torchvision

        made: nn.Module = torchvision.models.get_model(name, weights=None, **options)
        return made

    return build


def all_architectures() -> dict[str, Architecture]:
    """Everything that can be exported, by name."""
    from architecture_sequences import SEQUENCES
    from architecture_vision import VISION

    return {item.name: item for item in (*VISION, *SEQUENCES)}
