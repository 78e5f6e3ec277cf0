"""Watching what a loaded model calls while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graphopt.runtime.model import CompiledModel

Observer = Callable[..., int]
"""Called as ``observer(function, name, is before, result, *arguments)``, before and after each call of the virtual machine;
returns 0."""


@contextmanager
def observed(model: CompiledModel, observer: Observer) -> Iterator[None]:
    """Within the block, every call of the model's virtual machine is announced to ``observer``, which slows runs down.

    Raises:
        DeviceError: the model can't be loaded here.
    """
    vm = model._loaded()._vm
    vm.set_instrument(observer)
    try:
        yield
    finally:
        vm.set_instrument(None)
