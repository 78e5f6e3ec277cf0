"""Exports architectures to ONNX; run by the Python of an environment with ``requirements-architectures.txt``.

    python architecture_export.py FOLDER NAME ...
    python architecture_export.py --list

Every export leaves ``NAME-static.onnx`` or ``NAME-dynamic.onnx`` and beside it a ``.json`` that says what its inputs are. A line of
JSON on standard output says what became of each.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing may be downloaded

import architecture_nms  # noqa: F401 (stands in for operators of torchvision that may be missing)
import torch
from architecture_models import Architecture, all_architectures

OPSET = 18


def export(item: Architecture, dynamic: bool, path: Path) -> None:
    """Write one model, external data beside it where it is too large for one file."""
    module, example = item.module(), item.example(dynamic)
    names = list(item.feeds)
    axes = {name: dict(feed.axes) for name, feed in item.feeds.items() if feed.axes} if dynamic else {}
    common: dict[str, Any] = {"input_names": names, "output_names": list(item.outputs), "opset_version": OPSET}
    if item.traced:
        torch.onnx.export(module, example, str(path), dynamo=False, dynamic_axes=axes or None, **common)
        return
    shapes = in_order(module, [axes.get(name) for name in names]) if dynamic else None
    with torch.no_grad():
        made = torch.onnx.export(module, example, dynamo=True, dynamic_shapes=shapes, **common)
    assert made is not None
    made.save(str(path), external_data=size_of(module) > 2**31 - 2**27)


def in_order(module: torch.nn.Module, axes: list[dict[int, str] | None]) -> tuple[Any, ...]:
    """Open axes as torch.export wants them: those of ``*arguments`` in a tuple of their own."""
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(axes)
    return (*axes[:named], tuple(axes[named:])) if named < len(axes) else tuple(axes)


def size_of(module: torch.nn.Module) -> int:
    """Bytes of parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def reason(error: BaseException) -> str:
    """What was the matter first: exporters wrap it in errors that only say which step failed."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def describe(item: Architecture, dynamic: bool) -> dict[str, Any]:
    """What the measuring side has to know."""
    return {
        "name": item.name,
        "what": item.what,
        "dynamic": dynamic,
        "inputs": {
            name: {
                "shape": list(feed.shape),
                "axes": {str(axis): symbol for axis, symbol in feed.axes.items()} if dynamic else {},
                "below": feed.below,
            }
            for name, feed in item.feeds.items()
        },
        "more": [dict(values) for values in item.more] if dynamic else [],
        "forms": 1 + item.open,
    }


def main() -> None:
    """Export what was asked for."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    known = all_architectures()
    if sys.argv[1:] == ["--list"]:
        print("\n".join(known))
        return
    folder, *names = sys.argv[1:]
    for name in names or known:
        item = known[name]
        for dynamic in (False, True):
            if dynamic and not item.open:
                continue
            path = Path(folder) / f"{name}-{'dynamic' if dynamic else 'static'}.onnx"
            answer: dict[str, Any] = {"file": path.name}
            try:
                export(item, dynamic, path)
                path.with_suffix(".json").write_text(json.dumps(describe(item, dynamic), indent=1))
            except Exception as error:  # exporters raise any class
                path.unlink(missing_ok=True)
                traceback.print_exc()
                answer["error"] = reason(error)
            print("EXPORTED " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
