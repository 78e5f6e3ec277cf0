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
    """Within the block, every call of the model's virtual machines is announced to ``observer``, which slows runs down.

    That goes for runs of every thread that start within the block; ``observer`` is called by the thread that runs.

    Raises:
        DeviceError: the model can't be loaded here.
    """
    executor = model._loaded()
    executor.observe(observer)
    try:
        yield
    finally:
        executor.observe(None)
